"""Numbers that depend on a seed and a place alone."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.contract.randomness import key, uniform


def test_a_number_does_not_depend_on_what_is_asked_for_beside_it() -> None:
    start = key(3, 1, 17)

    whole = uniform(start, np.arange(1000))

    assert uniform(start, np.arange(400, 600)).tolist() == whole[400:600].tolist()
    assert uniform(start, np.array([999, 0])).tolist() == [whole[999], whole[0]]


def test_numbers_are_spread_evenly() -> None:
    drawn = uniform(key(0, 3, 0), np.arange(100_000))

    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    expected = 100_000 / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 d.f., p = .001
    assert drawn.min() >= 0
    assert drawn.max() < 1


@pytest.mark.parametrize("other", [(4, 1, 17), (3, 2, 17), (3, 1, 18), (3, 17, 1)])
def test_another_seed_stream_or_step_gives_unrelated_numbers(other: tuple[int, int, int]) -> None:
    places = np.arange(20_000)

    first, second = uniform(key(3, 1, 17), places), uniform(key(*other), places)

    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert len(np.intersect1d(first, second)) < 5


def test_any_whole_number_is_a_seed() -> None:
    keys = {int(key(seed, 1)) for seed in (-1, 0, 1, 2**63, 2**70 + 5)}

    assert len(keys) == 5
