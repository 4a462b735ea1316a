"""Users are dealt evenly, for good, and independently by layers and experiments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.experiments.assignment import layer_place, takes_part, unit, variant_of
from tests.serving.experiments.files import experiment

USERS = range(20_000)


def test_the_number_of_a_user_is_known() -> None:
    # The first 53 bits of BLAKE2b; it must never change while an experiment runs.
    assert unit("salt", 1007) == pytest.approx(0.3864765, abs=1e-7)


@given(st.text(), st.one_of(st.integers(), st.text()))
def test_a_number_is_from_0_to_below_1_and_stays(salt: str, user_id: int | str) -> None:
    assert 0 <= unit(salt, user_id) < 1
    assert unit(salt, user_id) == unit(salt, user_id)


@pytest.mark.parametrize("salt", ["a", "b"])
def test_numbers_are_uniform(salt: str) -> None:
    places = [int(100 * unit(salt, user_id)) for user_id in USERS]

    assert stats.chisquare(np.bincount(places, minlength=100)).pvalue > 0.001


def test_the_shares_are_the_weights() -> None:
    weighted = experiment(variants={"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 5}})

    counts = np.zeros(3)
    for user_id in USERS:
        counts["abc".index(variant_of(weighted, user_id))] += 1

    expected = len(USERS) * np.array([1, 2, 5]) / (1 + 2 + 5)
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_variants_of_two_experiments_are_independent() -> None:
    one, two = experiment("one"), experiment("two", layer="other")

    table = np.zeros((2, 2))
    for user_id in USERS:
        cell = (
            variant_of(one, user_id) == one.control,
            variant_of(two, user_id) == two.control,
        )
        table[int(cell[0]), int(cell[1])] += 1

    assert stats.chi2_contingency(table).pvalue > 0.001


def test_the_place_in_the_layer_says_nothing_of_the_variant() -> None:
    half = experiment(traffic=[0.0, 0.5])
    inside = [user_id for user_id in USERS if takes_part(half, user_id)]

    control = sum(variant_of(half, user_id) == half.control for user_id in inside)

    assert stats.binomtest(len(inside), len(USERS)).pvalue > 0.001
    assert stats.binomtest(control, len(inside)).pvalue > 0.001


def test_more_traffic_moves_nobody_to_another_variant() -> None:
    small, large = experiment(traffic=[0.2, 0.3]), experiment(traffic=[0.0, 1.0])

    for user_id in range(1000):
        if takes_part(small, user_id):
            assert takes_part(large, user_id)
        assert variant_of(small, user_id) == variant_of(large, user_id)


def test_another_salt_deals_anew() -> None:
    old, new = experiment(), experiment(salt="again")

    same = sum(variant_of(old, user) == variant_of(new, user) for user in USERS)

    assert stats.binomtest(same, len(USERS)).pvalue > 0.001


def test_experiments_of_a_layer_have_no_user_in_common() -> None:
    one, two = experiment("one", traffic=[0.0, 0.4]), experiment("two", traffic=[0.4, 1.0])

    for user_id in range(1000):
        assert takes_part(one, user_id) != takes_part(two, user_id)
        assert takes_part(one, user_id) == (layer_place("default", user_id) < 0.4)
