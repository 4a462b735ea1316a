"""Estimates of the monitor. Pure functions of arrays.

C cells of a feature, W windows of time (the recent one first, then blocks of history), U users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BUCKETS = 10
"""Cells of a number are put together into so many for the stability index."""
MODERATE, LARGE = 0.1, 0.25
"""The usual limits of the stability index (Siddiqi, "Credit Risk Scorecards", 2006)."""
LEAST_EXPECTED = 5.0
"""Rows of a cell below which chi-square does not hold; such cells are put together."""
WEIGHT_QUANTILE = 0.99
"""Nobody weighs more than the user at this place of all users."""
LEAST_UNITS = 10
"""Fewer users, or groups of them, are too few for a test."""


def buckets(counts_C: Ints, most: int = BUCKETS) -> Ints:
    """[C] to which bucket of like size each cell belongs, from 0; cells stay next to each other."""
    total = counts_C.sum()
    if total == 0:
        return np.zeros(len(counts_C), np.int64)
    middle = (np.cumsum(counts_C) - 0.5 * counts_C) / total
    return np.unique(np.minimum(most * middle, most - 1).astype(np.int64), return_inverse=True)[1]


def stability_index(before_C: Ints, now_C: Ints) -> float:
    """Population stability index: sum of (p - q) ln(p / q); an empty cell counts as half a row."""
    p = np.maximum(now_C, 0.5) / max(float(now_C.sum()), 1.0)
    q = np.maximum(before_C, 0.5) / max(float(before_C.sum()), 1.0)
    return float(((p - q) * np.log(p / q)).sum())


def stability_limit(num_cells: int, before: int, now: int, level: float) -> float:
    """Index above which a feature has drifted: ``MODERATE``, and more than chance makes of it.

    Where nothing drifts the index is near (1/n + 1/m) times chi-square with C - 1 degrees of
    freedom (Yurdakul & Naranjo, 2020, "Statistical properties of the population stability index").

    Args:
        num_cells: C.
        before: n rows.
        now: m rows.
        level: share of features without drift that chance may put above it.
    """
    if min(before, now) == 0 or num_cells < 2:
        return math.inf
    noise = float(stats.chi2.isf(level, num_cells - 1)) * (1.0 / before + 1.0 / now)
    return max(MODERATE, noise)


def kolmogorov_smirnov(before_C: Ints, now_C: Ints) -> tuple[float, float | None]:
    """Largest distance of two distributions at the cuts, and its p; None without rows.

    Between the cuts it may be larger, so that p is at least as large as of all values.
    """
    n, m = int(before_C.sum()), int(now_C.sum())
    if not n or not m:
        return 0.0, None
    distance = float(np.abs(np.cumsum(before_C) / n - np.cumsum(now_C) / m).max())
    return distance, float(stats.kstwobign.sf(distance * math.sqrt(n * m / (n + m))))


def rank_sum(before_C: Ints, now_C: Ints) -> float | None:
    """The p of Wilcoxon's rank sum, ties in a cell; None where all are alike.

    It finds a shift of all values long before Kolmogorov and Smirnov do.
    """
    together = (before_C + now_C).astype(np.float64)
    n, m = float(before_C.sum()), float(now_C.sum())
    total = n + m
    if not n or not m or total < 2:
        return None
    middle = np.cumsum(together) - 0.5 * together + 0.5
    ties = float((together**3 - together).sum()) / (total * (total - 1))
    variance = n * m / 12.0 * (total + 1 - ties)
    if variance <= 0:
        return None
    z = (float(now_C @ middle) - m * (total + 1) / 2.0) / math.sqrt(variance)
    return float(2.0 * stats.norm.sf(abs(z)))


def number_test(before_C: Ints, now_C: Ints) -> tuple[float, float | None]:
    """Largest distance of two distributions, and the p of it or of the rank sum, the lower one,
    doubled for there are two.
    """
    distance, p = kolmogorov_smirnov(before_C, now_C)
    ranks = rank_sum(before_C, now_C)
    given = [one for one in (p, ranks) if one is not None]
    return distance, min(1.0, 2.0 * min(given)) if given else None


def chi_square(before_C: Ints, now_C: Ints) -> tuple[float, float | None]:
    """Largest difference of a cell's shares, and the p of all of them; None without a test."""
    n, m = int(before_C.sum()), int(now_C.sum())
    if not n or not m:
        return 0.0, None
    distance = float(np.abs(before_C / n - now_C / m).max())
    expected = (before_C + now_C) * min(n, m) / (n + m)
    rare = expected < LEAST_EXPECTED
    table = np.stack([before_C, now_C])
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return distance, None
    return distance, float(stats.chi2_contingency(table, correction=False).pvalue)


def missing(before: int, num_before: int, now: int, num_now: int) -> tuple[float, float | None]:
    """Difference of the shares of missing values, and its p by Fisher's exact test."""
    if not num_before or not num_now:
        return 0.0, None
    difference = now / num_now - before / num_before
    if before + now in (0, num_before + num_now):
        return difference, None
    table = [[before, num_before - before], [now, num_now - now]]
    return difference, float(stats.fisher_exact(table).pvalue)


def false_discovery(p: Sequence[float | None]) -> list[float | None]:
    """Each p adjusted for how many there are (Benjamini & Hochberg, 1995); None stays."""
    given = [value for value in p if value is not None]
    adjusted = iter(stats.false_discovery_control(given).tolist() if given else ())
    return [None if value is None else float(next(adjusted)) for value in p]


@dataclass(frozen=True)
class Change:
    """A ratio in the recent window and before."""

    now: float | None
    before: float | None
    relative: float | None = None
    """Difference as a share of the value before."""
    error: float | None = None
    """Standard error of the relative difference, the fluctuation of whole blocks included."""
    p_fall: float | None = None
    """One-sided: of a fall as large by chance."""
    p_change: float | None = None
    """Two-sided."""
    users: int = 0
    """In the recent window."""


def change(y_WU: Doubles, x_WU: Doubles) -> Change:
    """How sum(y) / sum(x) of the recent window differs from that of the blocks before it.

    Users are the unit: the variance of the difference is that of the delta method, of users who
    are in both times together (Deng et al., 2018). What blocks of history differ from each other
    beyond that is a variance of its own, as in a meta-analysis (DerSimonian & Laird, 1986), which
    a single recent block has as well; the degrees of freedom are Welch's and Satterthwaite's. One
    user weighs no more than the one at ``WEIGHT_QUANTILE``, so that a crawler moves nothing.

    Args:
        y_WU: each user's part of the numerator in each window; the recent one is the first.
        x_WU: of the denominator.
    """
    y_WU, x_WU = _capped(y_WU, x_WU)
    y_H, x_H = y_WU[1:].sum(axis=0), x_WU[1:].sum(axis=0)
    now, before = _ratio(y_WU[0], x_WU[0]), _ratio(y_H, x_H)
    users = int((x_WU[0] > 0).sum())
    if now is None or before is None or before <= 0 or min(users, (x_H > 0).sum()) < LEAST_UNITS:
        return Change(now, before, users=users)
    own, num_units = _variance(y_WU[0], x_WU[0], y_H, x_H)
    blocks = [w for w in range(1, len(y_WU)) if x_WU[w].sum() > 0]
    between = _between(y_WU[blocks], x_WU[blocks], y_H, x_H) if len(blocks) > 2 else 0.0
    between *= 1.0 + 1.0 / max(len(blocks), 1)
    variance = own + between
    relative = now / before - 1.0
    if variance <= 0:
        return Change(now, before, relative, users=users)
    rest = between**2 / max(len(blocks) - 1, 1) + own**2 / max(num_units - 1, 1)
    t = stats.t(variance**2 / rest)
    z = (now - before) / math.sqrt(variance)
    error = math.sqrt(variance) / before
    p_fall, p_change = float(t.cdf(z)), float(2 * t.sf(abs(z)))
    return Change(now, before, relative, error, p_fall, p_change, users)


def _capped(y_WU: Doubles, x_WU: Doubles) -> tuple[Doubles, Doubles]:
    used = x_WU[x_WU > 0]
    if not len(used):
        return y_WU, x_WU
    most = float(np.quantile(used, WEIGHT_QUANTILE))
    scale = np.where(x_WU > most, most / np.maximum(x_WU, 1e-300), 1.0)
    return y_WU * scale, x_WU * scale


def _ratio(y_U: Doubles, x_U: Doubles) -> float | None:
    total = float(x_U.sum())
    return float(y_U.sum()) / total if total > 0 else None


def _variance(ya_U: Doubles, xa_U: Doubles, yb_U: Doubles, xb_U: Doubles) -> tuple[float, int]:
    """Of the difference of two ratios, whose users may be the same; and how many users."""
    parts = np.zeros(len(ya_U))
    for sign, y, x in ((1.0, ya_U, xa_U), (-1.0, yb_U, xb_U)):
        total = x.sum()
        parts += sign * (y - (y.sum() / total) * x) / total
    number = int(((xa_U > 0) | (xb_U > 0)).sum())
    return float(parts @ parts) * number / max(number - 1, 1), number


def _between(y_BU: Doubles, x_BU: Doubles, y_U: Doubles, x_U: Doubles) -> float:
    """Variance of whole blocks beyond that of their users, at least 0."""
    mean, excess = float(y_U.sum() / x_U.sum()), []
    for y, x in zip(y_BU, x_BU, strict=True):
        own, _ = _variance(y, x, y_U, x_U)
        excess.append((float(y.sum() / x.sum()) - mean) ** 2 - own)
    return max(0.0, float(np.mean(excess)) * len(excess) / (len(excess) - 1))
