"""Candidate sources, by hand."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.state import Histories
from retrieval.index import ItemIndex
from retrieval.sources import (
    AnnSource,
    BuyAgainSource,
    NeighbourSource,
    PopularSource,
    Transform,
    UserBatch,
    best,
    transformed,
)

DAY_S = 86_400
NOW_S = 1_600_000_000


def users(
    *histories: dict[int, tuple[float, int]],
    vectors: list[list[float]] | None = None,
    excluded: list[list[int]] | None = None,
) -> UserBatch:
    """Users by their items: row -> (decayed count, days since the last purchase)."""
    rows = [row for history in histories for row in history]
    weights = [entry[0] for history in histories for entry in history.values()]
    days = [entry[1] for history in histories for entry in history.values()]
    last_s = NOW_S - np.array(days, dtype=np.int64) * DAY_S
    made = Histories(
        np.cumsum([0, *map(len, histories)]).astype(np.int64),
        np.array(rows, dtype=np.int64),
        np.ones(len(rows), np.float32),
        np.array(weights, dtype=np.float32),
        last_s,
        last_s,
        np.zeros(len(rows), np.float32),
        np.zeros(len(rows), np.float32),
    )
    return UserBatch(
        made,
        np.full(len(histories), NOW_S),
        None if vectors is None else np.array(vectors, dtype=np.float32),
        None if excluded is None else [np.array(rows, dtype=np.int64) for rows in excluded],
    )


def test_buy_again_ranks_by_the_decayed_count_of_now() -> None:
    batch = users({7: (3.0, 112), 4: (1.0, 0), 9: (2.0, 28)}, {})

    top = BuyAgainSource(28.0).top(batch, 4)

    assert top.item_row.tolist() == [[4, 9, 7, 0], [0, 0, 0, 0]]  # 9 and 4 tie
    assert top.score[0, :3] == pytest.approx([1.0, 2.0 / 2, 3.0 / 16])
    assert np.isnan(top.score[0, 3])


def test_buy_again_leaves_out_items_that_are_unknown() -> None:
    assert BuyAgainSource(28.0).top(users({0: (5.0, 0), 3: (1.0, 0)}), 2).item_row.tolist() == [
        [3, 0]
    ]


def test_popular_is_the_same_for_everybody() -> None:
    source = PopularSource("popular", np.array([5, 2, 8]), np.array([9, 4, 1], np.float32))

    assert source.top(users({5: (1.0, 0)}, {}), 2).item_row.tolist() == [[5, 2], [5, 2]]


def test_popular_of_new_items_fills_up_with_the_next() -> None:
    source = PopularSource("popular", np.array([5, 2, 8]), np.array([9, 4, 1], np.float32), True)

    top = source.top(users({5: (1.0, 0)}, {}, excluded=[[2], []]), 2)

    assert top.item_row.tolist() == [[8, 0], [5, 2]]


def neighbour_source(new_only: bool = False) -> NeighbourSource:
    neighbours = np.array([[0, 0], [2, 3], [1, 3], [4, 0], [0, 0]], dtype=np.int32)
    weights = np.array(
        [[0.0, 0.0], [0.5, -0.2], [0.5, 0.4], [0.3, 0.0], [0.0, 0.0]], dtype=np.float32
    )
    return NeighbourSource("knn", neighbours, weights, Transform.LOG, 28.0, new_only)


def test_neighbours_add_up_over_the_history() -> None:
    batch = users({1: (1.0, 0), 2: (3.0, 28)})

    top = neighbour_source().top(batch, 3)

    first, second = log(1 + 1.0), log(1 + 1.5)
    scores = {2: 0.5 * first, 1: 0.5 * second, 3: -0.2 * first + 0.4 * second}
    assert top.item_row.tolist() == [sorted(scores, key=lambda row: -scores[row])]
    assert top.score[0] == pytest.approx(sorted(scores.values(), reverse=True), rel=1e-6)


def test_neighbours_of_new_items_leave_out_the_history_and_what_is_excluded() -> None:
    batch = users({1: (1.0, 0), 2: (3.0, 28)}, {3: (1.0, 0)}, excluded=[[], [4]])

    assert neighbour_source(new_only=True).top(batch, 2).item_row.tolist() == [[3, 0], [0, 0]]


def test_an_unknown_item_of_a_history_has_no_neighbours() -> None:
    assert neighbour_source().top(users({0: (5.0, 0)}), 1).item_row.tolist() == [[0]]


def test_ann_ranks_by_the_user_vector() -> None:
    items = np.array([[9, 9], [1, 0], [0, 1], [0.8, 0.1]], dtype=np.float32)
    source = AnnSource(ItemIndex.exact(items), items)

    top = source.top(users({}, {}, vectors=[[1, 0], [0, 1]]), 2)

    assert top.item_row.tolist() == [[1, 3], [2, 3]]
    assert top.score[0] == pytest.approx([1.0, 0.8])


def test_ann_of_new_items_looks_past_the_history() -> None:
    items = np.array([[9, 9], [1, 0], [0, 1], [0.8, 0.1]], dtype=np.float32)
    source = AnnSource(ItemIndex.exact(items), items, new_only=True)

    top = source.top(users({1: (1.0, 0)}, vectors=[[1, 0]]), 2)

    assert top.item_row.tolist() == [[3, 2]]


def test_ann_has_nothing_to_say_without_vectors() -> None:
    source = AnnSource(ItemIndex.exact(np.eye(3, dtype=np.float32)), np.eye(3, dtype=np.float32))

    assert source.top(users({}), 2).item_row.tolist() == [[0, 0]]


def test_equal_scores_are_ranked_by_row() -> None:
    rows, scores = best(np.array([9, 4, 6]), np.array([1.0, 1.0, 2.0]), 3)

    assert rows.tolist() == [6, 4, 9]
    assert scores.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Transform.BINARY, [0.0, 1.0, 1.0]),
        (Transform.LOG, [0.0, log(1.5), log(4.0)]),
        (Transform.CLIPPED, [0.0, 0.5, 1.0]),
    ],
)
def test_what_a_decayed_count_is_worth(transform: Transform, expected: list[float]) -> None:
    assert transformed(np.array([0.0, 0.5, 3.0], np.float32), transform) == pytest.approx(expected)


def test_a_saved_source_ranks_alike(tmp_path: Path) -> None:
    batch, source = users({1: (1.0, 0), 2: (3.0, 28)}), neighbour_source()
    source.save(tmp_path)

    loaded = NeighbourSource.load(tmp_path, "knn", Transform.LOG, 28.0, False)

    assert loaded.top(batch, 3).item_row.tolist() == source.top(batch, 3).item_row.tolist()


def test_a_source_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lacks a whole table"):
        PopularSource.load(tmp_path, "popular", False)
