"""Fitting similar users and clusters of them, by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import scipy.sparse as sp

from feature_repo.contract.state import Histories
from retrieval.sources import SimilarUsersSource, Transform, UserBatch, UserClusterSource
from trainer.neighbours import Purchases
from trainer.similar_users import (
    cluster_lists,
    clustered,
    fit_similar_users,
    item_weights,
    members,
    shares_of,
    strongest,
)
from trainer.source_config import SimilarUsersConfig

PAIRS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 2)]
"""User and item row."""


def purchases(pairs: list[tuple[int, int]], num_rows: int = 5) -> Purchases:
    users, rows = (np.array(values, dtype=np.int64) for values in zip(*pairs, strict=True))
    return Purchases(users, rows, np.ones(len(pairs), np.float32), int(users.max()) + 1, num_rows)


def one_user(*rows: int) -> UserBatch:
    ones = np.ones(len(rows), np.float32)
    times = np.zeros(len(rows), np.int64)
    made = Histories(
        np.array([0, len(rows)]), np.array(rows, np.int64), ones, ones, times, times, ones, ones
    )
    return UserBatch(made, np.zeros(1, np.int64))


def test_rare_items_weigh_more() -> None:
    matrix = purchases(PAIRS).matrix(Transform.BINARY)

    assert item_weights(matrix, 0.5).tolist() == pytest.approx([1, 1, 1 / sqrt(3), 1, 1])


def test_shares_add_up_to_the_cosine() -> None:
    matrix = purchases(PAIRS).matrix(Transform.BINARY)

    shares = shares_of(matrix, 0.5).toarray()

    weights = np.array([1, 1, 1 / sqrt(3), 1, 1])
    first, second = matrix.toarray()[0] * weights, matrix.toarray()[1] * weights
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    found = matrix.toarray()[0] @ shares[:, 1] / np.linalg.norm(first)
    assert found == pytest.approx(cosine, rel=1e-6)


def test_of_a_popular_item_the_strongest_buyers_stay() -> None:
    matrix = sp.csr_matrix(np.array([[0.3, 0.1, 0.2], [0.0, 0.5, 0.0]], np.float32))

    kept = strongest(matrix, 2).toarray()

    np.testing.assert_array_equal(kept, np.array([[0.3, 0, 0.2], [0, 0.5, 0]], np.float32))
    assert strongest(matrix, 3) is matrix


def test_the_fitted_source_asks_the_users_with_a_common_item() -> None:
    config = SimilarUsersConfig(neighbours=5, transform=Transform.BINARY, rare=0.0)

    found = fit_similar_users("near", purchases(PAIRS), config, 56.0, new_only=True)

    assert isinstance(found, SimilarUsersSource)
    top = found.top(one_user(1), 3)
    assert top.item_row.tolist() == [[2, 0, 0]]  # user 0 alone has item 1
    assert top.score[0, 0] == pytest.approx(1 / sqrt(2))


def test_lists_of_clusters_are_shares_of_their_members() -> None:
    bought = purchases(PAIRS).matrix(Transform.BINARY)

    rows, rates = cluster_lists(bought, members(np.array([0, 1, 1]), 3), 2)

    assert rows.tolist() == [[1, 2], [2, 3], [0, 0]]
    assert rates.tolist() == [[1, 1], [2 / 2, 1 / 2], [0, 0]]


def test_clusters_part_users_of_different_tastes() -> None:
    angles = np.array([0.0, 0.1, 1.5, 1.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    centroids, nearest = clustered(vectors, 2, seed=0)

    assert nearest[0] == nearest[1] != nearest[2] == nearest[3]
    assert np.linalg.norm(centroids, axis=1) == pytest.approx([1, 1], rel=1e-5)


def test_more_users_than_can_be_searched_become_clusters() -> None:
    left = [(user, row) for user in range(6) for row in (1, 2, 3) if (user + row) % 3]
    right = [(user, row) for user in range(6, 12) for row in (4, 5, 6) if (user + row) % 3]
    config = SimilarUsersConfig(exact_users=10, clusters=2, nearest=1, dim=2)

    found = fit_similar_users("near", purchases(left + right, 7), config, 56.0, new_only=True)

    assert isinstance(found, UserClusterSource)
    assert set(found.top(one_user(1), 2).item_row[0]) == {2, 3}
    assert set(found.top(one_user(5), 2).item_row[0]) == {4, 6}
