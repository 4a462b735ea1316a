"""Fitted neighbour tables, by hand or against plain dense algebra."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.sources import Transform
from tests.trainer.made_purchases import dense, made_purchases
from trainer.neighbours import Purchases, blocks, co_bought, fit_groups, fit_knn


def test_knn_is_a_shrunken_cosine() -> None:
    user, item = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 1, 3, 2])
    made = Purchases(user, item, np.ones(5, np.float32), 3, 4)

    neighbours, weights = fit_knn(made, Transform.BINARY, shrink=1.0, kept=2)

    assert neighbours[1].tolist() in ([2, 3], [3, 2])
    found = dense(neighbours, weights)
    assert found[1, 2] == pytest.approx(1 / (2**0.5 * 2**0.5 + 1))
    assert found[1, 3] == pytest.approx(1 / (2**0.5 * 1 + 1))
    assert found[2, 3] == 0.0
    assert found.diagonal().tolist() == [0.0] * 4


def test_knn_may_favour_the_popular_of_two_neighbours() -> None:
    user, item = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 1, 3, 2])
    made = Purchases(user, item, np.ones(5, np.float32), 3, 4)

    found = dense(*fit_knn(made, Transform.BINARY, shrink=0.0, kept=2, asymmetry=0.75))

    assert found[1, 2] == pytest.approx(1 / (2**0.75 * 2**0.25))
    assert found[1, 3] == pytest.approx(1 / (2**0.75 * 1**0.25))


def test_knn_may_trust_users_of_few_purchases_more() -> None:
    user, item = np.array([0, 0, 1, 1, 1]), np.array([1, 2, 1, 2, 3])
    made = Purchases(user, item, np.ones(5, np.float32), 2, 4)

    found = dense(*fit_knn(made, Transform.BINARY, shrink=0.0, kept=2, user_exponent=0.5))

    first, second = 1 / 2, 1 / 3  # what the two users count for
    assert found[1, 2] == pytest.approx(1.0)
    assert found[3, 1] == pytest.approx(second / (second**0.5 * (first + second) ** 0.5))


def test_the_strongest_neighbours_are_kept() -> None:
    made = made_purchases()
    whole = dense(*fit_knn(made, Transform.LOG, shrink=1.0, kept=8))

    found = dense(*fit_knn(made, Transform.LOG, shrink=1.0, kept=2))

    for row in range(1, 9):
        kept = np.argsort(-whole[row])[:2]
        assert found[row, kept] == pytest.approx(whole[row, kept])
        assert np.count_nonzero(found[row]) == 2


@pytest.mark.parametrize("products", [1, 100, 1 << 24])
def test_co_bought_items_are_those_of_the_product(
    products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.neighbours.BLOCK_PRODUCTS", products)
    matrix = made_purchases().matrix(Transform.LOG)
    found = np.zeros((9, 9), np.float32)

    rows = []
    for row, columns, values in co_bought(matrix):
        rows.append(row)
        found[row, columns] = values

    expected = (matrix.T @ matrix).toarray()
    np.fill_diagonal(expected, 0.0)
    assert rows == list(range(9))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blocks_stay_below_their_limit_or_hold_one() -> None:
    costs = np.array([2.0, 2.0, 1.0, 9.0, 0.0, 3.0])

    assert list(blocks(costs, 5.0)) == [(0, 3), (3, 4), (4, 6)]


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
