"""A user's totals and decayed sums, and the step that a basket makes them take.

DuckDB computes the same in bulk (``feature_repo.jobs.user_activity``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from feature_repo.contract.state import DAY_S


@dataclass(frozen=True)
class Activity:
    """One row of the view ``user_activity``; decayed sums are as of ``last_event_s``."""

    events_total: int
    sessions_total: int
    events_decayed: float
    sessions_decayed: float
    spend_decayed: float
    discount_rate: float | None
    first_event_s: int
    last_event_s: int

    def to_row(self) -> dict[str, Any]:
        """The columns of the view."""
        return dict(vars(self))

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Activity | None:
        """Read the columns of the view; None where there is nothing."""
        if row.get("events_total") is None:
            return None
        discount = row.get("discount_rate")
        if discount is not None and math.isnan(discount):
            discount = None
        return Activity(**{**{name: row[name] for name in COLUMNS}, "discount_rate": discount})


COLUMNS = tuple(Activity.__dataclass_fields__)


@dataclass(frozen=True)
class Basket:
    """What a user bought at one time."""

    time_s: int
    lines: int
    """Distinct items."""
    spend: float


def advance(activity: Activity | None, basket: Basket, half_life_days: float) -> Activity:
    """The totals after a basket that is later than all before it.

    Its lines have no list price, so that the share of discounts stays.
    """
    if activity is None:
        count, time_s = float(basket.lines), basket.time_s
        return Activity(basket.lines, 1, count, 1.0, basket.spend, None, time_s, time_s)
    faded = decay(basket.time_s - activity.last_event_s, half_life_days)
    return replace(
        activity,
        events_total=activity.events_total + basket.lines,
        sessions_total=activity.sessions_total + 1,
        events_decayed=activity.events_decayed * faded + basket.lines,
        sessions_decayed=activity.sessions_decayed * faded + 1.0,
        spend_decayed=activity.spend_decayed * faded + basket.spend,
        last_event_s=basket.time_s,
    )


def insert(activity: Activity | None, basket: Basket, half_life_days: float) -> Activity:
    """The totals with a basket that lies before the last event, taken for one of its own."""
    if activity is None or basket.time_s > activity.last_event_s:
        return advance(activity, basket, half_life_days)
    faded = decay(activity.last_event_s - basket.time_s, half_life_days)
    return replace(
        activity,
        events_total=activity.events_total + basket.lines,
        sessions_total=activity.sessions_total + 1,
        events_decayed=activity.events_decayed + basket.lines * faded,
        sessions_decayed=activity.sessions_decayed + faded,
        spend_decayed=activity.spend_decayed + basket.spend * faded,
        first_event_s=min(activity.first_event_s, basket.time_s),
    )


def decay(age_s: float, half_life_days: float) -> float:
    """What is left of a one after ``age_s`` seconds."""
    return float(2.0 ** (-age_s / DAY_S / half_life_days))
