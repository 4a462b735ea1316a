"""Rows of the wide side."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.contract.errors import ConfigError
from ranking.crosses import Crosses

SIZES = {"count": 3, "due": 4, "brand": 1000}
CODES = {
    "count": np.array([0, 2, 1], dtype=np.uint8),
    "due": np.array([3, 0, 1], dtype=np.uint8),
    "brand": np.array([7, 7, 999]),
}


def test_one_feature_is_its_one_hot() -> None:
    crosses = Crosses.declare([["count"], ["due"]], SIZES, max_rows=100)

    assert crosses.num_rows == 3 + 4
    assert crosses.rows(CODES, 3).tolist() == [[0, 3 + 3], [2, 3 + 0], [1, 3 + 1]]


def test_a_small_cross_has_a_row_for_every_combination() -> None:
    crosses = Crosses.declare([["count"], ["count", "due"]], SIZES, max_rows=100)

    expected = [3 + 0 * 4 + 3, 3 + 2 * 4 + 0, 3 + 1 * 4 + 1]
    assert crosses.num_rows == 3 + 3 * 4
    assert crosses.rows(CODES, 3)[:, 1].tolist() == expected


def test_a_large_cross_is_hashed_into_its_own_rows() -> None:
    crosses = Crosses.declare([["count"], ["count", "brand"]], SIZES, max_rows=50)

    found = crosses.rows(CODES, 3)[:, 1]

    assert crosses.num_rows == 3 + 50
    assert ((found >= 3) & (found < 53)).all()


def test_hashing_spreads_combinations_evenly() -> None:
    crosses = Crosses.declare([["count", "brand"]], SIZES, max_rows=100)
    counts, brands = (grid.ravel() for grid in np.meshgrid(np.arange(3), np.arange(1000)))

    filled = np.bincount(crosses.rows({"count": counts, "brand": brands}, 3000)[:, 0])

    assert len(filled) == 100
    assert filled.max() < 2 * 3000 / 100


def test_without_crosses_there_are_no_rows() -> None:
    crosses = Crosses.declare([], SIZES, max_rows=10)

    assert crosses.num_rows == 0
    assert crosses.rows({}, 3).shape == (3, 0)


def test_every_feature_is_read_once() -> None:
    crosses = Crosses.declare([["due"], ["count", "due"]], SIZES, max_rows=10)

    assert crosses.features == ("due", "count")


def test_an_unknown_feature_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"names \['price'\].*\['brand', 'count', 'due'\]"):
        Crosses.declare([["count", "price"]], SIZES, max_rows=10)


def test_an_empty_cross_is_refused() -> None:
    with pytest.raises(ConfigError, match="no feature"):
        Crosses.declare([[]], SIZES, max_rows=10)


def test_a_cross_that_is_declared_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Crosses.declare([["due"], ["due"]], SIZES, max_rows=10)
