from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.exploration.choice import choose, probabilities


def test_of_one_row_the_best_arm_has_all_but_the_uniform_share() -> None:
    found = probabilities(np.array([[0.1, 0.3, 0.2]]), np.ones(3, np.bool_), 0.3)

    assert found.tolist() == pytest.approx([0.1, 0.7 + 0.1, 0.1])


def test_of_draws_an_arm_has_its_share_of_the_rows() -> None:
    rows = np.array([[0.1, 0.3], [0.4, 0.3], [0.2, 0.3], [0.0, 0.3]])

    found = probabilities(rows, np.ones(2, np.bool_), 0.2)

    assert found.tolist() == pytest.approx([0.8 * 1 / 4 + 0.1, 0.8 * 3 / 4 + 0.1])


def test_places_below_choose_among_the_arms_that_are_left() -> None:
    random = np.random.default_rng(0)

    found = choose(np.array([[0.1, 0.3, 0.2]]), 0.0, 5, random)

    assert found.arm_P.tolist() == [1, 2, 0]
    assert found.propensity_P.tolist() == [1.0, 1.0, 1.0]


def test_a_propensity_is_how_often_the_arm_is_chosen_there() -> None:
    """Of all choices whose arms above are the same."""
    random, rows = np.random.default_rng(0), np.random.default_rng(1).random((7, 4))
    first, second, said = np.zeros(4), np.zeros((4, 4)), {}
    for _ in range(20_000):
        found = choose(rows, 0.2, 2, random)
        one, two = found.arm_P.tolist()
        first[one] += 1
        second[one, two] += 1
        said[one, two] = found.propensity_P
    for (one, two), propensity in said.items():
        assert first[one] / 20_000 == pytest.approx(propensity[0], abs=0.02)
        assert second[one, two] / first[one] == pytest.approx(propensity[1], abs=0.06)


def test_weights_by_propensities_are_without_bias_though_draws_are_few() -> None:
    """Thompson sampling by three draws, judged for a uniform policy over arms with rates."""
    random, rates, values = np.random.default_rng(0), np.array([0.2, 0.5, 0.9]), []
    for _ in range(40_000):
        rows = random.normal(rates, 0.5, (3, 3))
        found = choose(rows, 0.1, 1, random)
        arm, propensity = found.arm_P[0], found.propensity_P[0]
        values.append((1 / 3) / propensity * rates[arm])

    assert np.mean(values) == pytest.approx(rates.mean(), abs=0.02)


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 8),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_every_list_has_distinct_arms_with_propensities_above_zero(
    num_rows: int, num_arms: int, num_places: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)

    found = choose(random.random((num_rows, num_arms)), share, num_places, random)

    assert len(found.arm_P) == len(set(found.arm_P.tolist())) == min(num_arms, num_places)
    assert (found.propensity_P > 0).all()
    assert (found.propensity_P <= 1 + 1e-9).all()
