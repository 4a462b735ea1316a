"""Similar users and clusters of users, by hand."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.state import Histories
from retrieval.sources import (
    SimilarUsersSource,
    Transform,
    UserBatch,
    UserClusterSource,
    load_source,
)

NOW_S = 1_600_000_000


def users(*histories: dict[int, float]) -> UserBatch:
    """Users by item row -> decayed count as of now."""
    rows = [row for history in histories for row in history]
    weights = np.array([w for history in histories for w in history.values()], np.float32)
    times = np.full(len(rows), NOW_S)
    ones = np.ones(len(rows), np.float32)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    made = Histories(offsets, np.array(rows, np.int64), ones, weights, times, times, ones, ones)
    return UserBatch(made, np.full(len(histories), NOW_S))


def knn(neighbours: int, new_only: bool = False) -> SimilarUsersSource:
    """User 0 bought items 1 and 2, user 1 items 2 and 3, user 2 item 4."""
    return SimilarUsersSource(
        "near",
        item_offsets=np.array([0, 0, 1, 3, 4, 5]),
        buyers=np.array([0, 0, 1, 1, 2], dtype=np.int32),
        shares=np.array([0.6, 0.8, 0.5, 0.7, 1.0], dtype=np.float32),
        user_offsets=np.array([0, 2, 4, 5]),
        items=np.array([1, 2, 2, 3, 4], dtype=np.int32),
        worths=np.array([1.0, 2.0, 3.0, 4.0, 5.0], dtype=np.float32),
        neighbours=neighbours,
        transform=Transform.LOG,
        half_life_days=56.0,
        new_only=new_only,
    )


def test_items_of_similar_users_add_up() -> None:
    top = knn(2).top(users({2: 1.0}), 4)

    first, second = 0.8 * log(2), 0.5 * log(2)  # similarity to users 0 and 1
    scores = {1: first * 1, 2: first * 2 + second * 3, 3: second * 4}
    assert top.item_row.tolist() == [[*sorted(scores, key=lambda row: -scores[row]), 0]]
    assert top.score[0, :3] == pytest.approx(sorted(scores.values(), reverse=True))


def test_only_the_nearest_users_are_asked() -> None:
    assert knn(1).top(users({2: 1.0}), 3).item_row.tolist() == [[2, 1, 0]]


def test_what_is_known_is_left_out() -> None:
    assert knn(2, new_only=True).top(users({2: 1.0}), 3).item_row.tolist() == [[3, 1, 0]]


def test_a_user_without_a_known_history_has_no_candidates() -> None:
    assert knn(2).top(users({}, {0: 3.0}), 1).item_row.tolist() == [[0], [0]]


def test_items_that_no_similar_user_bought_have_no_score() -> None:
    scores = knn(2).score(users({2: 1.0}), np.array([0, 2]), np.array([3, 4]))

    assert scores[0] == pytest.approx(0.5 * log(2) * 4)
    assert np.isnan(scores[1])


def clusters(nearest: int, new_only: bool = False) -> UserClusterSource:
    return UserClusterSource(
        "clusters",
        item_factors=np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32),
        centroids=np.array([[1, 0], [0, 1]], dtype=np.float32),
        rows=np.array([[1, 3], [2, 3]], dtype=np.int32),
        rates=np.array([[0.5, 0.25], [0.75, 0.5]], dtype=np.float32),
        nearest=nearest,
        transform=Transform.BINARY,
        half_life_days=56.0,
        new_only=new_only,
    )


def test_a_user_gets_the_list_of_the_nearest_cluster() -> None:
    top = clusters(1).top(users({1: 1.0}, {2: 1.0}), 2)

    assert top.item_row.tolist() == [[1, 3], [2, 3]]
    assert top.score.tolist() == [[0.5, 0.25], [0.75, 0.5]]


def test_lists_of_several_clusters_add_up_by_similarity() -> None:
    top = clusters(2).top(users({3: 1.0}), 3)

    cosine = 1 / 2**0.5
    assert top.item_row.tolist() == [[2, 3, 1]]
    assert top.score[0] == pytest.approx([cosine * 0.75, cosine * (0.25 + 0.5), cosine * 0.5])


def test_a_cluster_names_nothing_known_and_nobody_without_a_history() -> None:
    top = clusters(1, new_only=True).top(users({1: 1.0}, {}), 2)

    assert top.item_row.tolist() == [[3, 0], [0, 0]]


def test_items_are_scored_as_in_the_list() -> None:
    scores = clusters(1).score(users({1: 1.0}), np.array([0, 3]), np.array([3, 2, 1]))

    np.testing.assert_array_equal(scores, np.array([0.25, np.nan, 0.5], np.float32))


@pytest.mark.parametrize("source", [knn(2, True), clusters(2, True)])
def test_a_source_is_read_back(
    source: SimilarUsersSource | UserClusterSource, tmp_path: Path
) -> None:
    source.save(tmp_path / "sources" / source.name)

    found = load_source(tmp_path, source.name, source.about)

    batch = users({2: 1.0}, {1: 2.0, 3: 1.0})
    assert found.top(batch, 3).item_row.tolist() == source.top(batch, 3).item_row.tolist()
    assert found.about == source.about
