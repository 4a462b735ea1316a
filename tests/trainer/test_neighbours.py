"""Fitted neighbour tables, by hand or against plain dense algebra."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.sources import Transform
from trainer.neighbours import Purchases, fit_ease, fit_groups, fit_knn


def purchases(seed: int = 0, num_users: int = 30, num_rows: int = 9) -> Purchases:
    random = np.random.default_rng(seed)
    bought = random.random((num_users, num_rows)) < 0.4
    bought[:, 0] = False
    user, item = np.nonzero(bought)
    weight = random.gamma(2.0, 1.0, len(user)).astype(np.float32)
    return Purchases(user, item, weight, num_users, num_rows)


def dense(neighbours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A neighbour table as a matrix."""
    matrix = np.zeros((len(neighbours), len(neighbours)))
    for row in range(len(neighbours)):
        np.add.at(matrix[row], neighbours[row], weights[row])
    return matrix


def test_ease_is_the_closed_form() -> None:
    made = purchases()

    found = dense(*fit_ease(made, Transform.BINARY, num_items=8, l2=2.0, kept=8))

    x = made.matrix(Transform.BINARY).toarray()[:, 1:].astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(8))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    assert found[1:, 1:] == pytest.approx(expected, abs=1e-4)


def test_ease_keeps_the_largest_weights_negative_ones_too() -> None:
    whole = dense(*fit_ease(purchases(), Transform.LOG, num_items=8, l2=2.0, kept=8))

    found = dense(*fit_ease(purchases(), Transform.LOG, num_items=8, l2=2.0, kept=2))

    for row in range(1, 9):
        kept = np.argsort(-np.abs(whole[row]))[:2]
        assert set(np.flatnonzero(found[row])) == set(kept)
    assert (found < 0).any()


def test_ease_knows_only_the_most_bought_items() -> None:
    made = purchases()
    popular = np.sort(np.argsort(-made.buyers(), kind="stable")[:4])

    neighbours, _ = fit_ease(made, Transform.BINARY, num_items=4, l2=2.0, kept=3)

    assert set(np.unique(neighbours)) <= {0, *popular.tolist()}
    assert np.flatnonzero(neighbours.any(axis=1)).tolist() == popular.tolist()


def test_knn_is_a_shrunken_cosine() -> None:
    user, item = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 1, 3, 2])
    made = Purchases(user, item, np.ones(5, np.float32), 3, 4)

    neighbours, weights = fit_knn(made, Transform.BINARY, shrink=1.0, kept=2, block=2)

    assert neighbours[1].tolist() in ([2, 3], [3, 2])
    found = dense(neighbours, weights)
    assert found[1, 2] == pytest.approx(1 / (2**0.5 * 2**0.5 + 1))
    assert found[1, 3] == pytest.approx(1 / (2**0.5 * 1 + 1))
    assert found[2, 3] == 0.0
    assert found.diagonal().tolist() == [0.0] * 4


def test_groups_share_out_their_popularity() -> None:
    codes = np.array([0, 1, 1, 2, 1, 0])
    popularity = np.array([9, 3, 6, 5, 1, 7], dtype=np.float32)

    neighbours, weights = fit_groups(codes, popularity, kept=2)

    assert neighbours.tolist() == [[0, 0], [2, 1], [2, 1], [3, 0], [2, 1], [0, 0]]
    assert weights[1] == pytest.approx([6 / 10, 3 / 10])
    assert weights[3] == pytest.approx([1.0, 0.0])


def test_a_shop_without_groups_has_no_group_neighbours() -> None:
    neighbours, _ = fit_groups(np.zeros(4, np.int64), np.ones(4, np.float32), kept=2)

    assert not neighbours.any()
