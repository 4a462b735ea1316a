"""Whether features and scores are spread as they were: a result a feature, a family of tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from feature_repo.contract.snapshot import USUAL_DAYS, Counted, Kind, Spread
from serving.monitor.config import MonitorConfig
from serving.monitor.statistics import (
    BUCKETS,
    LEAST_EXPECTED,
    Ints,
    buckets,
    chi_square,
    false_discovery,
    missing,
    number_test,
    stability_index,
    stability_limit,
)

ROWS_A_BUCKET = 20


@dataclass(frozen=True)
class Drift:
    """One feature, then and now."""

    name: str
    kind: Kind
    before: int
    """Rows of the reference."""
    now: int
    """Rows that were served."""
    distance: float
    """Of numbers Kolmogorov's and Smirnov's, of categories the largest difference of a share."""
    index: float
    """Population stability index."""
    index_limit: float
    """Above which it raises an alarm; higher in small windows."""
    missing_before: float
    """Share of the rows without a value."""
    missing_now: float
    usual: float = 0.0
    """Distance that raises no alarm: by which the training rows changed by themselves."""
    usual_missing: float = 0.0
    """Likewise, of the missing share."""
    p: float | None = None
    """Of the values: of numbers by Kolmogorov-Smirnov and the rank sum, of categories by
    chi-square; None where there is nothing to test."""
    p_missing: float | None = None
    """Of the missing share, by Fisher's exact test."""
    p_index: float | None = None
    """Of a number's buckets, by chi-square; of categories ``p`` says it."""
    q: float | None = None
    """``p``, adjusted for all tests of the family."""
    q_missing: float | None = None
    q_index: float | None = None
    alarms: tuple[str, ...] = ()
    """What has drifted: ``values``, ``missing``, ``index``."""

    @property
    def alarm(self) -> bool:
        """Whether anything has."""
        return bool(self.alarms)


def drifts(
    reference: Sequence[Spread],
    counted: Mapping[str, Counted],
    config: MonitorConfig,
    age_days: float = 0.0,
) -> list[Drift]:
    """One result for each feature that was counted, the most drifted first.

    All tests are one family, in which false discoveries are held at ``level``; where nothing
    drifts that is the share of rounds with any alarm. What features change by themselves raises
    none: what they did in ``USUAL_DAYS`` before the release, and in proportion where it is older.

    Args:
        reference: of the features, or more.
        counted: feature -> what was served.
        config: limits.
        age_days: of the reference.
    """
    ageing = max(1.0, (age_days + config.recent_days) / USUAL_DAYS)
    spreads = [spread for spread in reference if spread.name in counted]
    level = config.level / max(len(spreads), 1)
    found = [_drift(one, counted[one.name], level, ageing) for one in spreads]
    every = [p for one in found for p in (one.p, one.p_missing, one.p_index)]
    adjusted = iter(false_discovery(every))
    judged = [_judged(_with_q(one, [next(adjusted) for _ in range(3)]), config) for one in found]
    return sorted(judged, key=lambda one: (not one.alarm, -one.index))


def _with_q(drift: Drift, q: Sequence[float | None]) -> Drift:
    return replace(drift, q=q[0], q_missing=q[1], q_index=q[2])


def _drift(spread: Spread, now: Counted, level: float, ageing: float) -> Drift:
    then = spread.counted
    test = number_test if spread.kind is Kind.NUMBER else chi_square
    distance, p = test(then.cells, now.cells)
    before_B, now_B = (bucketed(spread, one, now.present) for one in (then, now))
    _, p_missing = missing(then.missing, then.rows, now.missing, now.rows)
    return Drift(
        spread.name,
        spread.kind,
        then.rows,
        now.rows,
        distance,
        stability_index(before_B, now_B) if now.present and then.present else 0.0,
        stability_limit(len(before_B), then.present, now.present, level),
        then.missing / max(then.rows, 1),
        now.missing / max(now.rows, 1),
        spread.usual * ageing,
        spread.usual_missing * ageing,
        p,
        p_missing,
        chi_square(before_B, now_B)[1] if spread.kind is Kind.NUMBER else None,
    )


def bucketed(spread: Spread, counted: Counted, present: int) -> Ints:
    """[B] rows by bucket: cells of numbers together, rare categories together.

    Fewer buckets where fewer rows were served, so that each has ``ROWS_A_BUCKET`` of them in the
    mean, and no category fewer than ``LEAST_EXPECTED``: of sparse ones the index says nothing.
    """
    then = spread.counted.cells
    most = min(BUCKETS, max(2, present // ROWS_A_BUCKET))
    if spread.kind is Kind.NUMBER:
        groups = buckets(then, most)
    else:
        is_rare = then * present < LEAST_EXPECTED * max(int(then.sum()), 1)
        order = np.minimum(np.arange(len(then)), most - 1)  # the most frequent come first
        last = int(order[~is_rare].max()) + 1 if (~is_rare).any() else 0
        groups = np.where(is_rare, min(last, most - 1), order)
    return np.bincount(groups, weights=counted.cells).astype(np.int64)


def _judged(drift: Drift, config: MonitorConfig) -> Drift:
    alarms, is_far = [], drift.distance >= max(config.least_distance, drift.usual)
    if drift.q is not None and drift.q < config.level and is_far:
        alarms.append("values")
    apart = abs(drift.missing_now - drift.missing_before)
    is_sure = drift.q_missing is not None and drift.q_missing < config.level
    if is_sure and apart >= max(config.least_distance, drift.usual_missing):
        alarms.append("missing")
    q_index = drift.q_index if drift.kind is Kind.NUMBER else drift.q
    is_sure = q_index is not None and q_index < config.level
    if drift.index > drift.index_limit and is_sure and is_far:
        alarms.append("index")
    return replace(drift, alarms=tuple(alarms))
