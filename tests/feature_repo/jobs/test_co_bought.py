"""Items bought by the same users."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from feature_repo.jobs.co_bought import co_bought

USER = np.array([0, 0, 0, 1, 1, 2, 3])
ITEM = np.array([0, 1, 2, 0, 1, 1, 3])


def test_neighbours_weigh_by_common_buyers_over_the_degrees() -> None:
    codes, weights, offsets = co_bought(USER, ITEM, 4, 5, kept=2)

    # users have 3, 2, 1 and 1 items; items 0, 1, 2 have 2, 3 and 1 buyers
    first = [(1 / 3 + 1 / 2) / sqrt(2 * 3), (1 / 3) / sqrt(2 * 1)]
    assert offsets.tolist() == [0, 2, 4, 6, 6, 6]
    assert codes[:4].tolist() == [1, 2, 0, 2]
    assert weights[:2] == pytest.approx(np.array(first) / sum(first))
    assert weights.sum() == pytest.approx(3.0)


def test_only_the_nearest_are_kept() -> None:
    codes, weights, offsets = co_bought(USER, ITEM, 4, 5, kept=1)

    assert codes.tolist() == [1, 0, 0]
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert offsets.tolist() == [0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_blocks_do_not_change_the_neighbours(block: int) -> None:
    random = np.random.default_rng(0)
    pairs = np.unique(random.integers(0, 30, (400, 2)), axis=0)
    whole = co_bought(pairs[:, 0], pairs[:, 1], 30, 30, kept=7)

    found = co_bought(pairs[:, 0], pairs[:, 1], 30, 30, kept=7, block=block)

    assert found[0].tolist() == whole[0].tolist()
    assert found[2].tolist() == whole[2].tolist()
    assert not (np.repeat(np.arange(30), np.diff(found[2])) == found[0]).any()
