from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from serving.experiments.statistics import (
    compare,
    cuped,
    false_discovery,
    linearised,
    sample_ratio,
)

Y = np.array([1.0, 0.0, 3.0, 2.0, 0.0, 4.0])
X = np.array([2.0, 1.0, 4.0, 2.0, 3.0, 4.0])
ONES = np.ones(6)


def test_a_mean_per_user_is_compared_by_welchs_test() -> None:
    found = compare(Y, ONES, np.array([0, 0, 0, 1, 1, 1]), 2)

    control, other = found.estimates
    assert control.value == pytest.approx((1 + 0 + 3) / 3)
    assert other.value == pytest.approx((2 + 0 + 4) / 3)
    (difference,) = found.differences
    assert difference.value == pytest.approx((2 + 0 + 4) / 3 - (1 + 0 + 3) / 3)
    assert difference.p == pytest.approx(stats.ttest_ind(Y[3:], Y[:3], equal_var=False).pvalue)
    assert difference.relative == pytest.approx(6 / 4 - 1)
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < 2 - 4 / 3 < difference.high


def test_a_ratio_has_the_variance_of_the_delta_method() -> None:
    line, ratio = linearised(Y, X), Y.sum() / X.sum()
    covariance = np.cov(Y, X)

    assert line.mean() == pytest.approx(10 / 16)
    spread = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    assert line.var(ddof=1) == pytest.approx(spread / X.mean() ** 2)


def test_users_without_a_denominator_count_for_the_spread_alone() -> None:
    y, x = np.array([1.0, 3.0, 0.0]), np.array([1.0, 1.0, 0.0])

    assert linearised(y, x).mean() == pytest.approx((1 + 3) / 2)


def test_cuped_takes_away_what_the_time_before_explains() -> None:
    before = [np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])]
    after = [10 + 2 * before[0], 13 + 2 * before[1]]  # three more, whatever was spent before

    lines, explained = cuped(after, before)

    mean = (1 + 2 + 3 + 2 + 4 + 6) / 6
    np.testing.assert_allclose(lines[0], 10 + 2 * mean)
    np.testing.assert_allclose(lines[1], 13 + 2 * mean)
    assert explained == pytest.approx(1.0)


def test_cuped_of_a_covariate_that_says_nothing_changes_nothing() -> None:
    variant = np.array([0, 0, 0, 1, 1, 1])
    plain = compare(Y, X, variant, 2)

    assert compare(Y, X, variant, 2, np.full(6, 5.0)) == plain
    assert plain.explained is None


def test_cuped_halves_the_variance_of_half_known_spend() -> None:
    random = np.random.default_rng(5)
    before = random.normal(size=20_000)
    after = before + random.normal(size=20_000)
    variant = np.arange(20_000) % 2

    plain = compare(after, np.ones(20_000), variant, 2).differences[0]
    found = compare(after, np.ones(20_000), variant, 2, before)
    (adjusted,) = found.differences

    assert found.explained == pytest.approx(1 / 2, abs=0.02)
    assert plain.high is not None
    assert plain.low is not None
    assert adjusted.high is not None
    assert adjusted.low is not None
    narrower = (adjusted.high - adjusted.low) / (plain.high - plain.low)
    assert narrower == pytest.approx(math.sqrt(1 / 2), abs=0.02)


def test_the_relative_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, held, rounds = np.random.default_rng(11), 0, 200
    variant = np.arange(400) % 2
    for _ in range(rounds):
        spend = random.exponential(size=400) * np.where(variant == 1, 1.2, 1.0)
        one = compare(spend, np.ones(400), variant, 2).differences[0]
        assert one.relative_low is not None
        assert one.relative_high is not None
        held += one.relative_low <= 0.2 <= one.relative_high

    assert stats.binomtest(held, rounds, 0.95).pvalue > 0.001


def test_a_variant_whose_users_are_all_alike_is_compared_with_the_others_spread() -> None:
    y = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    (difference,) = compare(y, ONES, np.array([0, 0, 0, 1, 1, 1]), 2).differences

    error = math.sqrt((2 / 3 * 1 / 3) / (3 - 1))
    reach = stats.t.ppf(0.975, 3 - 1) * error
    assert difference.low == pytest.approx(2 / 3 - reach)
    assert difference.high == pytest.approx(2 / 3 + reach)


def test_two_variants_without_any_spread_differ_for_sure() -> None:
    y = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    (difference,) = compare(y, ONES, np.array([0, 0, 0, 1, 1, 1]), 2).differences

    assert (difference.value, difference.low, difference.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("variant", [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]])
def test_too_few_users_have_no_interval(variant: list[int]) -> None:
    found = compare(Y, ONES, np.array(variant), 2)

    assert found.differences[0].low is None
    assert found.differences[0].p is None


def test_a_metric_that_never_varies_has_no_interval() -> None:
    found = compare(np.zeros(6), ONES, np.array([0, 1, 0, 1, 0, 1]), 2)

    assert found.estimates[0].value == 0
    assert found.differences[0].value == 0
    assert found.differences[0].p is None


def test_the_sample_ratio_is_tested_by_chi_square() -> None:
    assert sample_ratio(np.array([50, 50]), [1, 1]) == 1.0
    squares = (60 - 50) ** 2 / 50 + (40 - 50) ** 2 / 50
    want = stats.chi2.sf(squares, 1)
    assert sample_ratio(np.array([60, 40]), [2.0, 2.0]) == pytest.approx(want)
    assert sample_ratio(np.array([0, 0]), [1, 1]) is None


def test_discoveries_are_adjusted_for_their_number() -> None:
    assert false_discovery([0.01, 0.04]) == pytest.approx([0.01 * 2, 0.04])
    assert false_discovery([]) == []
