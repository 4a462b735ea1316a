"""Items by what is written of them, by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import log, sqrt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.state import Histories
from retrieval.sources import ContentSource, Transform, UserBatch, load_source
from retrieval.sources.content_features import (
    ContentEncoder,
    Topics,
    given_vectors,
    terms_of,
    words,
)

NOW_S = 1_600_000_000
ITEMS = pa.table(
    {
        "item_id": [10, 11, 12, 13],
        "title": ["Red apple, red", "Green apple", "Tea", None],
        "category": ["fruit", "fruit", "drink", None],
    }
)
TERMS = [("category", "drink"), ("category", "fruit"), ("title", "apple"), ("title", "red")]
ALL = np.ones(5, dtype=np.bool_)
SCALES = np.array([2.0, 1.0, 1.0, 0.5], dtype=np.float32)


def encoder(given: str | None = None) -> ContentEncoder:
    """Terms as they are: the projection changes nothing."""
    return ContentEncoder(
        ["title"], ["category"], TERMS, SCALES, np.eye(4, dtype=np.float32), given, 0.25
    )


def users(*histories: dict[int, float]) -> UserBatch:
    """Users by item row -> decayed count as of now."""
    rows = [row for history in histories for row in history]
    weights = np.array([w for history in histories for w in history.values()], np.float32)
    times, ones = np.full(len(rows), NOW_S), np.ones(len(rows), np.float32)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    made = Histories(offsets, np.array(rows, np.int64), ones, weights, times, times, ones, ones)
    return UserBatch(made, np.full(len(histories), NOW_S))


def test_words_are_runs_of_letters_and_digits_in_lower_case() -> None:
    assert words("Ice – Crushed/Cubed, 22 lb") == ["ice", "crushed", "cubed", "22", "lb"]
    assert words("Crème brûlée") == ["crème", "brûlée"]


def test_an_attribute_is_one_term_and_what_is_missing_is_none() -> None:
    found = list(terms_of(ITEMS, ["title"], ["category"]))

    assert found[0] == Counter(
        {("title", "red"): 2, ("title", "apple"): 1, ("category", "fruit"): 1}
    )
    assert found[3] == Counter()


def test_terms_are_weighed_and_an_items_have_length_one() -> None:
    matrix = encoder().matrix(ITEMS).toarray()

    red = 0.5 * (1 + log(2))
    length = sqrt(1 + 1 + red**2)
    np.testing.assert_allclose(matrix[0], [0, 1 / length, 1 / length, red / length], rtol=1e-6)
    np.testing.assert_allclose(matrix[1], [0, 1 / sqrt(2), 1 / sqrt(2), 0], rtol=1e-6)
    np.testing.assert_allclose(matrix[2], [1, 0, 0, 0])
    assert not matrix[3].any()


def test_given_vectors_share_in_the_cosine() -> None:
    vectors = pa.array([[3.0, 4.0], [4.0, 3.0], None, [0.0, 2.0]], pa.list_(pa.float32()))
    items = ITEMS.append_column("vector", vectors)

    found = encoder("vector").vectors_of(items)

    terms = 2 * 1 / sqrt(2) / sqrt(2 + (0.5 * (1 + log(2))) ** 2)
    assert found[0] @ found[1] == pytest.approx(0.75 * terms + 0.25 * 24 / 25, rel=1e-5)
    assert found[2, 4:].tolist() == [0, 0]


def test_given_vectors_of_several_widths_are_refused() -> None:
    items = pa.table({"vector": [[1.0, 2.0], [1.0]]})

    with pytest.raises(BadInput, match="Row 1 of the items has a vector of 1 numbers"):
        given_vectors(items, "vector")


def test_an_attribute_that_items_lack_is_named() -> None:
    with pytest.raises(BadInput, match="lack the column 'category'"):
        encoder().vectors_of(ITEMS.drop_columns(["category"]))


def topics() -> Topics:
    """Two topics, each of one group."""
    return Topics(
        "category",
        ["drink", "fruit"],
        np.array([[2.0, 0.0], [0.0, 1.0]], dtype=np.float32),
        np.array([0.5, 3.0], dtype=np.float32),
    )


def test_an_item_has_the_topics_of_its_group() -> None:
    assert topics().vectors_of(ITEMS).tolist() == [[0, 3], [0, 3], [1, 0], [0, 0]]


def test_a_mixture_explains_the_roots_of_the_counts() -> None:
    found = topics().mixtures(np.array([[9.0, 16.0, 4.0], [0, 0, 0]], dtype=np.float32))

    drink, fruit = sqrt(16) / 2, sqrt(4) / 1
    assert found[0] == pytest.approx(np.array([drink, fruit]) / np.hypot(drink, fruit))
    assert found[1].tolist() == [0, 0]


def test_mixtures_of_overlapping_topics_come_near_the_best_fit() -> None:
    made = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=np.float32)
    found = Topics("category", ["a", "b", "c"], made, np.ones(3, np.float32))
    counts = np.square(np.array([[0.6, 0.8]]) @ made)

    mixture = found.mixtures(np.hstack([[[0.0]], counts]).astype(np.float32), steps=200)

    assert mixture[0] == pytest.approx([0.6, 0.8], abs=1e-3)


def source(new_only: bool = False, with_topics: bool = True) -> ContentSource:
    """Row r is item 9 + r; row 4 has neither text nor category."""
    own = np.vstack([np.zeros((1, 4), np.float32), encoder().vectors_of(ITEMS)])
    if not with_topics:
        groups = np.zeros(5, dtype=np.int32)
        return ContentSource(
            "content", encoder(), None, own, groups, ALL, Transform.BINARY, 56.0, new_only
        )
    shared = np.vstack([np.zeros((1, 2), np.float32), topics().vectors_of(ITEMS)])
    groups = np.array([0, *topics().groups_of(ITEMS)], dtype=np.int32)
    vectors = np.hstack([own, shared])
    return ContentSource(
        "content", encoder(), topics(), vectors, groups, ALL, Transform.BINARY, 56.0, new_only
    )


def test_a_profile_is_the_direction_of_the_histories_vectors() -> None:
    found = source(with_topics=False).profiles(users({1: 1.0, 3: 1.0}, {}))

    vectors = source(with_topics=False).item_vectors
    total = vectors[1] + vectors[3]
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), rtol=1e-6)
    assert not found[1].any()


def test_alike_items_are_named_though_nobody_bought_them() -> None:
    top = source(new_only=True, with_topics=False).top(users({1: 1.0}), 3)

    terms = 2 * 1 / sqrt(2) / sqrt(2 + (0.5 * (1 + log(2))) ** 2)
    assert top.item_row.tolist() == [[2, 0, 0]]
    assert top.score[0, 0] == pytest.approx(terms, rel=1e-5)


def test_lists_hold_only_the_items_that_may_be_named() -> None:
    made = source(with_topics=False)
    unsold = replace(made, named=np.array([False, False, True, True, True]))

    assert made.top(users({1: 1.0}), 2).item_row.tolist() == [[1, 2]]
    assert unsold.top(users({1: 1.0}), 2).item_row.tolist() == [[2, 0]]


def test_topics_add_to_the_cosine() -> None:
    without = source(with_topics=False).top(users({1: 1.0}), 2)
    added = source().top(users({1: 1.0}), 2)

    assert added.item_row.tolist() == without.item_row.tolist() == [[1, 2]]
    np.testing.assert_allclose(added.score, without.score + 3.0, rtol=1e-5)


def test_items_are_scored_as_in_the_list_and_unknown_ones_not_at_all() -> None:
    batch = users({1: 1.0})
    top = source().top(batch, 2)

    scores = source().score(batch, np.array([0, 3]), np.array([1, 2, 4]))

    np.testing.assert_allclose(scores[:2], top.score[0], rtol=1e-6)
    assert np.isnan(scores[2])


def test_a_new_item_has_the_vector_that_its_row_would_have() -> None:
    found = source().vectors_of(ITEMS)

    np.testing.assert_array_equal(found, source().item_vectors[1:])


@pytest.mark.parametrize("with_topics", [True, False])
def test_the_source_is_read_back_and_knows_new_items(with_topics: bool, tmp_path: Path) -> None:
    made = source(True, with_topics)
    made.save(tmp_path / "sources" / "content")

    found = load_source(tmp_path, "content", made.about)

    assert isinstance(found, ContentSource)
    batch = users({1: 1.0}, {3: 2.0})
    assert found.top(batch, 3).item_row.tolist() == made.top(batch, 3).item_row.tolist()
    np.testing.assert_array_equal(found.vectors_of(ITEMS), made.vectors_of(ITEMS))


def test_an_encoder_of_other_terms_is_refused(tmp_path: Path) -> None:
    encoder().save(tmp_path)
    np.save(tmp_path / "scales.npy", SCALES[:3])

    with pytest.raises(ArtifactError, match="has 4 terms, 3 weights and 4 rows"):
        ContentEncoder.load(tmp_path)
