from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy_config import ExposureConfig, PolicyConfig, PromotionConfig, Similarity
from ranking.policy_items import PolicyItems

NOW_S = 1_600_000_000
IDS = [10, 20, 30, 40]
VOCABULARY = Vocabulary.build(pa.array([*IDS, 50]), IdType.INT64)
ITEMS = pa.table(
    {
        "item_id": list(reversed(IDS)),
        "event_timestamp": pa.array([NOW_S * 1_000_000] * 4, pa.timestamp("us", tz="UTC")),
        "category": ["milk", None, "bread", "milk"],
        "brand": ["a", "a", "b", "b"],
        "coupons": [0, 2, None, 1],
        "mailed": [True, False, None, True],
        "first_sold_s": [NOW_S - int(days * DAY_S) for days in (3, 7, 8, 400)],
        "buyers_total": [16, 4, 0, None],
    }
)


def facts(num_users: int = 16, vectors: Any = None, **settings: Any) -> PolicyItems:
    return PolicyItems.of(PolicyConfig(**settings), ITEMS, VOCABULARY, num_users, vectors)


def members(**group: Any) -> list[int]:
    """Return the ids of a group, found by a promotion of its items."""
    found = facts(promotions=[PromotionConfig(**group, boost=1.0)]).boost_R
    return [int(item) for item in VOCABULARY.ids_of(np.flatnonzero(found))]


def test_a_column_alone_means_its_true_and_nonzero_values() -> None:
    assert members(column="coupons") == [10, 30]
    assert members(column="mailed") == [10, 40]


def test_a_group_is_of_texts_numbers_days_or_names() -> None:
    assert members(column="category", values=["milk"]) == [10, 40]
    assert members(column="buyers_total", at_most=4) == [20, 30]
    assert members(column="buyers_total", at_least=4) == [30, 40]
    assert members(column="first_sold_s", within_days=7) == [30, 40]
    assert members(item_ids=[20, 50]) == [20, 50]


def test_boosts_of_an_item_add_up() -> None:
    found = facts(
        promotions=[
            PromotionConfig(column="coupons", boost=1.0),
            PromotionConfig(column="mailed", boost=-0.25),
        ]
    )

    assert found.boost_R.tolist() == [0, 1.0 - 0.25, 0, 1.0, -0.25, 0]


def test_self_information_is_over_the_most_there_can_be() -> None:
    found = facts(novelty=0.5).information_R

    # -log2(16 / 16) / 4, -log2(4 / 16) / 4; no buyer, and one that nothing is known of, as one
    assert found[VOCABULARY.rows(pa.array([40, 30, 20, 10]))].tolist() == [0, 2 / 4, 1, 1]


def test_similarity_is_the_share_of_equal_attributes_and_unknown_equals_nothing() -> None:
    found = facts(attributes=["category", "brand", "colour"])
    rows = VOCABULARY.rows(pa.array([10, 20, 30, 40]))[None]

    assert found.alike(rows)(np.array([0])).tolist() == [[2 / 2, 1 / 2, 0, 1 / 2]]
    assert found.alike(rows)(np.array([2])).tolist() == [[0, 0, 1 / 2, 1 / 2]]


def test_similarity_of_vectors_is_their_cosine_from_zero() -> None:
    vectors = np.array([[0, 0], [2, 0], [1, 1], [0, 3], [-1, 0], [0, 0]], dtype=np.float32)
    found = facts(vectors=vectors, similarity=Similarity.vectors)

    similarity = found.alike(np.array([[1, 2, 3, 4, 5]]))(np.array([0]))

    assert similarity[0] == pytest.approx([1, 1 / np.sqrt(2), 0, 0, 0])


def test_surprise_is_the_share_of_attributes_that_the_history_lacks() -> None:
    found = facts(attributes=["category", "brand"])
    rows = VOCABULARY.rows(pa.array([10, 20, 30, 40]))
    history = [VOCABULARY.rows(pa.array([10])), np.zeros(0, np.int64)]

    surprise = found.surprise(np.stack([rows, rows]), history)

    # item 30 has no category, which says nothing
    assert surprise[0].tolist() == [0, 1 / 2, 1 / 2, 1 / 2]
    assert surprise[1].tolist() == [1, 1, 1 / 2, 1]


@pytest.mark.parametrize(("k", "fewest"), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_a_share_of_the_places_is_rounded_up(k: int, fewest: int) -> None:
    (rule,) = facts(exposure=[ExposureConfig(column="coupons", share=0.1)]).rules

    assert rule.fewest(k) == fewest


def test_what_the_release_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="names the item column 'colour'"):
        facts(max_per={"colour": 1})
    with pytest.raises(ConfigError, match="names item 60"):
        members(item_ids=[10, 60])
    with pytest.raises(ConfigError, match="needs item vectors"):
        facts(similarity=Similarity.vectors)
    with pytest.raises(ConfigError, match="'brand' as numbers"):
        members(column="brand")
