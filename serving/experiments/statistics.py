"""Estimates of experiments, with users as the unit. Pure functions of arrays.

A metric of a variant is sum(y) / sum(x) over its users: a mean per user where x is 1, such as
revenue, or a ratio, such as clicks per item shown. A ratio is linearised at each variant's own
value R: l = R + (y - R x) / mean(x) has R as its mean, and its variance is that of the delta method
(Deng, Knoblich & Lu, 2018, "Applying the delta method in metric analytics"). CUPED takes from l
what a covariate of the time before explains (Deng et al., 2013). Tests and intervals are Welch's,
by scipy.

U users, G variants; variant 0 is the control.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVEL = 0.95
"""Of confidence intervals."""
SRM_ALARM = 0.001
"""Below this p the users are not split as the weights say (Fabijan et al., 2019)."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one variant; an interval is None where there are too few users for one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    users: int = 0


@dataclass(frozen=True)
class Difference:
    """What a variant has more than the control; None where it cannot be estimated."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Two-sided."""
    relative: float | None = None
    """Of the control's value."""
    relative_low: float | None = None
    relative_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One metric of all variants."""

    estimates: tuple[Estimate, ...]
    """[G]"""
    differences: tuple[Difference, ...]
    """[G - 1] of the variants after the control."""
    explained: float | None = None
    """Share of the variance that the covariate took away; None without one."""


def compare(
    y_U: Doubles,
    x_U: Doubles,
    variant_U: Ints,
    num_variants: int,
    covariate_U: Doubles | None = None,
    level: float = LEVEL,
) -> Comparison:
    """One metric of each variant, and how those after the first differ from it.

    Args:
        y_U: each user's part of the numerator.
        x_U: of the denominator; 1 for a mean per user.
        variant_U: from 0.
        num_variants: G.
        covariate_U: of the time before the experiment; None: no CUPED.
        level: of the intervals.
    """
    groups = [np.flatnonzero(variant_U == place) for place in range(num_variants)]
    lines = [linearised(y_U[users], x_U[users]) for users in groups]
    explained = None
    if covariate_U is not None:
        lines, explained = cuped(lines, [covariate_U[users] for users in groups])
    estimates = tuple(_estimate(line, level) for line in lines)
    differences = tuple(_difference(line, lines[0], level) for line in lines[1:])
    return Comparison(estimates, differences, explained)


def linearised(y_U: Doubles, x_U: Doubles) -> Doubles:
    """[U] values whose mean is sum(y) / sum(x) and whose spread is that of the delta method.

    Empty where the denominator is zero.
    """
    total = float(x_U.sum())
    if total <= 0:
        return np.zeros(0)
    ratio = float(y_U.sum()) / total
    return np.asarray(ratio + (y_U - ratio * x_U) / (total / len(x_U)))


def cuped(
    lines: Sequence[Doubles], covariates: Sequence[Doubles]
) -> tuple[list[Doubles], float | None]:
    """Values without what a covariate explains, and the share of variance that this takes away.

    Its slope is pooled over the variants, within each; the mean over all users stays as it is.
    """
    used = [place for place, line in enumerate(lines) if len(line)]
    if not used:
        return list(lines), None
    mean = float(np.concatenate([covariates[place] for place in used]).mean())
    centred = [covariates[place] - covariates[place].mean() for place in used]
    spread = sum(float(own @ own) for own in centred)
    if spread <= 0:
        return list(lines), None
    residuals = [lines[place] - lines[place].mean() for place in used]
    together = sum(float(a @ b) for a, b in zip(residuals, centred, strict=True))
    theta, noise = together / spread, sum(float(own @ own) for own in residuals)
    adjusted = list(lines)
    for place in used:
        adjusted[place] = lines[place] - theta * (covariates[place] - mean)
    return adjusted, (theta * together / noise if noise > 0 else 0.0)


def _estimate(line_U: Doubles, level: float) -> Estimate:
    if not len(line_U):
        return Estimate(None)
    mean, count = float(line_U.mean()), len(line_U)
    if not _varies(line_U):
        return Estimate(mean, users=count)
    interval = stats.ttest_1samp(line_U, 0.0).confidence_interval(level)
    return Estimate(mean, float(interval.low), float(interval.high), count)


def _difference(line_U: Doubles, control_U: Doubles, level: float) -> Difference:
    if not len(line_U) or not len(control_U):
        return Difference(None)
    mean, base = float(line_U.mean()), float(control_U.mean())
    if len(line_U) < 2 or len(control_U) < 2:
        return Difference(mean - base)
    if not (_varies(line_U) or _varies(control_U)):
        apart = mean - base
        return Difference(apart, apart, apart) if apart else Difference(0.0)
    with warnings.catch_warnings():  # one of the two may be all alike
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(line_U, control_U, equal_var=False)
        interval = test.confidence_interval(level)
    found = Difference(mean - base, float(interval.low), float(interval.high), float(test.pvalue))
    return found if base <= 0 else _relative(found, line_U, control_U, level)


def _relative(found: Difference, line_U: Doubles, control_U: Doubles, level: float) -> Difference:
    """With the difference as a share of the control's value, by the delta method."""
    mean, base = float(line_U.mean()), float(control_U.mean())
    own, other = (float(line.var(ddof=1)) / len(line) for line in (line_U, control_U))
    error = math.sqrt(own + (mean / base) ** 2 * other) / base
    reach = float(stats.norm.ppf(0.5 + level / 2)) * error
    relative = mean / base - 1
    return Difference(
        found.value, found.low, found.high, found.p, relative, relative - reach, relative + reach
    )


def _varies(line_U: Doubles) -> bool:
    """Whether a spread can be estimated that is more than rounding."""
    if len(line_U) < 2:
        return False
    return bool(np.ptp(line_U) > 1e-9 * max(1e-300, float(np.abs(line_U).max())))


def sample_ratio(counts_G: Ints, weights_G: Sequence[float]) -> float | None:
    """The p of the users' numbers under the weights, by the chi-square test; None without users."""
    total = int(counts_G.sum())
    if not total:
        return None
    shares = np.asarray(weights_G, np.float64) / sum(weights_G)
    return float(stats.chisquare(counts_G, total * shares).pvalue)


def false_discovery(p: Sequence[float]) -> list[float]:
    """Each p adjusted for how many there are (Benjamini & Hochberg, 1995)."""
    return [float(value) for value in stats.false_discovery_control(p)] if len(p) else []
