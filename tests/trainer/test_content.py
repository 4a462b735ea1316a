"""Fitting the source of content, by hand."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import write_table
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.state import Histories
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources import ContentSource, Transform, UserBatch
from trainer.content import fit_content, fit_encoder, group_counts, placed, with_vectors
from trainer.neighbours import Purchases
from trainer.source_config import ContentConfig

IDS = list(range(10, 18))
VOCABULARY = Vocabulary.build(IDS, IdType.INT64)
KINDS = ["fruit", "fruit", "fruit", "fruit", "drink", "drink", "drink", None]
ITEMS = pa.table(
    {
        "item_id": IDS,
        "title": [
            "red apple",
            "green apple",
            "red plum",
            "new plum",
            "tea",
            "green tea",
            "cola",
            None,
        ],
        "category": KINDS,
    }
)


def config(**settings: Any) -> ContentConfig:
    chosen: dict[str, Any] = {
        "weights": {"title": 1.0, "category": 1.0},
        "topics_of": "category",
        "dim": 8,
    }
    return ContentConfig(**{**chosen, "topics": 0, **settings})


def purchases() -> Purchases:
    """Users 0 and 1 buy fruit, users 2 and 3 drinks; nobody bought item 13, row 4, or row 8."""
    pairs = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 5), (2, 6), (3, 6), (3, 7)]
    users, rows = (np.array(values, dtype=np.int64) for values in zip(*pairs, strict=True))
    return Purchases(users, rows, np.ones(8, np.float32), 4, VOCABULARY.num_rows)


def one_user(*rows: int) -> UserBatch:
    ones = np.ones(len(rows), np.float32)
    times = np.zeros(len(rows), np.int64)
    made = Histories(
        np.array([0, len(rows)]), np.array(rows, np.int64), ones, ones, times, times, ones, ones
    )
    return UserBatch(made, np.zeros(1, np.int64))


def fit(settings: ContentConfig) -> ContentSource:
    return fit_content("content", purchases(), ITEMS, VOCABULARY, settings, 56.0, new_only=True)


def test_terms_of_much_bought_items_weigh_less() -> None:
    sold = np.array([1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0])

    found = fit_encoder(ITEMS, sold, None, config(rare=0.5, weights={"title": 1, "category": 4}), 0)

    assert found.terms == [
        *(("category", "drink"), ("category", "fruit"), ("title", "apple"), ("title", "green")),
        *(("title", "plum"), ("title", "red"), ("title", "tea")),
    ]
    expected = [2 / sqrt(5), 2 / sqrt(5), 1 / sqrt(4), 1 / sqrt(5), 1 / sqrt(2), 1 / sqrt(3)]
    np.testing.assert_allclose(found.scales, [*expected, 1 / sqrt(4)], rtol=1e-6)


def test_a_full_projection_keeps_the_cosines_of_terms() -> None:
    found = fit(config(min_items=1, dim=7))

    terms = found.encoder.matrix(ITEMS).toarray()
    vectors = found.item_vectors[1:]
    np.testing.assert_allclose(vectors @ vectors.T, terms @ terms.T, atol=1e-5)


def test_an_item_that_nobody_bought_is_named_to_those_who_buy_its_like() -> None:
    top = fit(config()).top(one_user(1, 3), 2)

    assert set(top.item_row[0]) == {2, 4}


def test_items_with_many_buyers_may_be_left_out() -> None:
    bought_by = {0: {1, 2, 3, 5, 6, 7}, 1: {2, 6}, 2: set()}
    for max_buyers, left_out in bought_by.items():
        top = fit(config(max_buyers=max_buyers)).top(one_user(3), 8)

        rows = set(top.item_row[0]) - {0}
        assert 4 in rows
        assert not rows & left_out
        assert (2 in rows) == (2 not in left_out)


@pytest.mark.parametrize("topics", [0, 2])
def test_an_item_outside_of_the_vocabulary_has_a_vector(topics: int) -> None:
    found = fit(config(topics=topics))
    new = pa.table({"item_id": [99], "title": ["yellow plum"], "category": ["fruit"]})

    (vector,) = found.vectors_of(new)

    (profile,) = found.profiles(one_user(1, 3))
    drinks = found.item_vectors[5:8]
    assert vector @ profile > (drinks @ profile).max()


def test_topics_share_in_the_deviation_of_scores() -> None:
    for share in (0.5, 0.8):
        found = fit(config(topics=2, topics_share=share))
        width = found.encoder.projection.shape[1]
        users = [found.profiles(one_user(*rows))[0] for rows in ((1, 2), (2, 3), (5, 6), (6, 7))]
        terms = [np.std(found.item_vectors[:, :width] @ user[:width]) for user in users]
        topics = [np.std(found.item_vectors[:, width:] @ user[width:]) for user in users]

        assert np.mean(topics) / np.mean(terms) == pytest.approx(share / (1 - share), rel=1e-3)


def test_items_without_groups_leave_topics_out() -> None:
    items = ITEMS.set_column(2, "category", pa.nulls(len(ITEMS), pa.string()))
    settings = config(topics=4)

    found = fit_content("content", purchases(), items, VOCABULARY, settings, 56.0, new_only=True)

    assert found.topics is None


def test_purchases_are_counted_by_group() -> None:
    groups = np.array([0, 2, 2, 2, 2, 1, 1, 1, 0], dtype=np.int32)

    found = group_counts(purchases().matrix(Transform.BINARY), groups, 2)

    assert found.toarray().tolist() == [[0, 0, 2], [0, 0, 2], [0, 2, 0], [0, 2, 0]]


def test_values_go_to_the_rows_of_their_items_and_row_0_stays_empty() -> None:
    assert placed(np.array([5, 6, 7], np.int32), np.array([2, 0, 1]), 4).tolist() == [0, 7, 5, 0]


def test_given_vectors_come_from_a_file_or_a_column(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    write_table(
        path, pa.table({"item_id": [12, 10, 77], "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
    )

    items, column = with_vectors(ITEMS, VOCABULARY, config(vectors=str(path)))

    assert column == "vector"
    assert items.column("vector").to_pylist()[:3] == [[3.0, 4.0], None, [1.0, 2.0]]
    assert with_vectors(items, VOCABULARY, config(vectors="vector")) == (items, "vector")


def test_given_vectors_bring_items_together(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    write_table(path, pa.table({"item_id": [10, 16], "vector": [[0.6, 0.8], [0.6, 0.8]]}))

    found = fit(config(vectors=str(path), vectors_share=0.9)).top(one_user(1), 1)

    assert found.item_row.tolist() == [[7]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"title": 1.0, "colour": 1.0}}, "Items have no column \\['colour'\\]"),
        ({"vectors": "embedding"}, "neither a column of the items nor a Parquet file"),
        ({"min_items": 50}, "Fewer than two terms"),
    ],
)
def test_settings_that_do_not_suit_the_items_get_a_sentence(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(config(**settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"texts": ["description"]}, "content.weights does not read"),
        ({"weights": {"title": 0.0}}, "a weight above zero"),
        ({"topics_share": 1.0}, "topics_share must be between 0 and 1; got 1.0"),
        ({"dim": 0}, "content.dim must be above zero; got 0"),
    ],
)
def test_mistaken_settings_get_a_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**settings)
