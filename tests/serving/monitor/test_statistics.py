from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from serving.monitor.statistics import (
    MODERATE,
    buckets,
    change,
    chi_square,
    false_discovery,
    kolmogorov_smirnov,
    missing,
    number_test,
    rank_sum,
    stability_index,
    stability_limit,
)


def counts(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def test_the_stability_index_is_the_sum_over_cells() -> None:
    expected = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)

    assert stability_index(counts(50, 50), counts(30, 70)) == pytest.approx(expected)
    assert stability_index(counts(50, 50), counts(5, 5)) == 0


def test_the_limit_of_the_index_is_higher_in_small_windows() -> None:
    noise = stats.chi2.isf(0.01, 9) * (1 / 1000 + 1 / 50)

    assert stability_limit(10, 1000, 50, 0.01) == pytest.approx(noise)
    assert stability_limit(10, 100_000, 100_000, 0.01) == MODERATE
    assert stability_limit(10, 1000, 0, 0.01) == math.inf


def test_buckets_put_neighbours_together_in_parts_of_like_size() -> None:
    assert buckets(counts(1, 1, 1, 1, 1, 1), 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert buckets(counts(97, 1, 1, 1), 3).tolist() == [0, 1, 1, 1]


def test_kolmogorov_and_smirnov_agree_with_scipy_where_every_value_is_a_cut() -> None:
    random = np.random.default_rng(0)
    before, now = random.poisson(3, 400), random.poisson(3.4, 300)
    cells = [np.bincount(values, minlength=20) for values in (before, now)]
    theirs = stats.ks_2samp(before, now, method="asymp")

    distance, p = kolmogorov_smirnov(*cells)

    assert distance == pytest.approx(theirs.statistic)
    assert p == pytest.approx(theirs.pvalue, rel=0.2)


def test_the_rank_sum_agrees_with_scipy_with_ties() -> None:
    random = np.random.default_rng(0)
    before, now = random.poisson(3, 400), random.poisson(3.4, 300)
    cells = [np.bincount(values, minlength=20) for values in (before, now)]
    theirs = stats.mannwhitneyu(before, now, use_continuity=False, method="asymptotic")

    assert rank_sum(*cells) == pytest.approx(theirs.pvalue)
    assert number_test(*cells)[1] == pytest.approx(2 * theirs.pvalue)


def test_nothing_is_tested_where_nothing_is_there() -> None:
    assert kolmogorov_smirnov(counts(0, 0), counts(1, 2)) == (0.0, None)
    assert chi_square(counts(5, 5), counts(0, 0)) == (0.0, None)
    assert missing(0, 10, 0, 10) == (0.0, None)
    assert rank_sum(counts(10, 0), counts(10, 0)) is None


def test_rare_categories_are_tested_together() -> None:
    before, now = counts(500, 480, 1, 1, 1), counts(480, 500, 1, 0, 1)
    theirs = stats.chi2_contingency([[500, 480, 3], [480, 500, 2]], correction=False)

    assert chi_square(before, now)[1] == pytest.approx(theirs.pvalue)


def test_a_missing_share_is_tested_exactly() -> None:
    difference, p = missing(10, 100, 30, 100)

    assert difference == pytest.approx(0.2)
    assert p == pytest.approx(stats.fisher_exact([[10, 90], [30, 70]]).pvalue)


def test_what_has_no_p_does_not_count_among_the_tests() -> None:
    assert false_discovery([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]


def test_a_change_is_told_with_users_as_the_unit() -> None:
    x = np.ones((2, 100))
    y = np.stack([np.repeat([0.0, 1.0], 50), np.repeat([1.0, 0.0], [80, 20])])
    theirs = stats.ttest_rel(y[0], y[1], alternative="less")

    found = change(y, x)

    assert found.now == 0.5
    assert found.before == pytest.approx(0.8)
    assert found.relative == pytest.approx(0.5 / 0.8 - 1)
    assert found.p_fall == pytest.approx(theirs.pvalue)


def test_weeks_that_differ_by_themselves_make_a_fall_less_sure() -> None:
    random = np.random.default_rng(0)
    x = np.full((9, 2000), 10.0)
    steady = np.stack([random.binomial(10, rate, 2000) for rate in [0.09] + [0.1] * 8])
    moving = np.stack([random.binomial(10, rate, 2000) for rate in [0.09] + [0.08, 0.12] * 4])

    sure, unsure = change(steady.astype(np.float64), x), change(moving.astype(np.float64), x)

    assert sure.p_fall is not None
    assert unsure.p_fall is not None
    assert sure.p_fall < 1e-5
    assert unsure.p_fall > 0.2


def test_one_crawler_moves_nothing() -> None:
    random = np.random.default_rng(0)
    x = np.full((2, 1000), 10.0)
    y = random.binomial(10, 0.1, (2, 1000)).astype(np.float64)
    quiet = change(y, x)
    x[0, 0], y[0, 0] = 1e6, 0.0

    loud = change(y, x)

    assert quiet.now is not None
    assert loud.now == pytest.approx(quiet.now, rel=0.02)


def test_too_few_users_and_no_clicks_before_are_no_test() -> None:
    x, y = np.ones((2, 5)), np.ones((2, 5))

    assert change(y, x).p_fall is None
    assert change(np.zeros((2, 50)), np.ones((2, 50))).p_fall is None


def test_where_nothing_changes_an_alarm_is_as_rare_as_is_said() -> None:
    random = np.random.default_rng(0)
    below = 0
    for _ in range(300):
        interest = random.beta(2, 38, 300)
        x = np.asarray(10 * random.poisson(1.5, (5, 300)), np.float64)
        y = random.binomial(x.astype(int), interest).astype(np.float64)
        p = change(y, x).p_fall
        assert p is not None
        below += p < 0.05

    assert below <= stats.binom.isf(0.001, 300, 0.05)
