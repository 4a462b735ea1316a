"""How time is cut: the window edges t0..t3 and the edges of the weekly snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from feature_repo.contract.errors import BadInput

DEFAULT_WINDOW_DAYS = 28
HISTORY_WINDOWS = 8
"""Windows of history that must remain before t0."""

EARLIER_WINDOWS = 3
"""Label windows before t0, at most; rankers may learn of them too."""
EARLIER_HISTORY = 4
"""Windows of history that must remain before the first of those."""

Edges = tuple[datetime, datetime, datetime, datetime]


def shift_days(time: datetime, days: int, zone: ZoneInfo) -> datetime:
    """The same time of day ``days`` later on the wall clock of ``zone``, in UTC."""
    return (time.astimezone(zone) + timedelta(days=days)).astimezone(UTC)


def midnight(time: datetime, zone: ZoneInfo) -> datetime:
    """The last midnight of ``zone`` at or before ``time``, in UTC."""
    local = time.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    return local.astimezone(UTC)


def cutoff_time(value: str, zone: ZoneInfo) -> datetime:
    """A cut-off in UTC; a time without a zone is of ``zone``.

    Raises:
        BadInput: not an ISO 8601 time.
    """
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise BadInput(
            f"data.cutoff={value!r} is not an ISO 8601 date such as 2011-11-01."
        ) from None
    return (time.replace(tzinfo=zone) if time.tzinfo is None else time).astimezone(UTC)


def window_edges(
    first: datetime,
    last: datetime,
    zone: ZoneInfo,
    cutoff: datetime | None = None,
    window_days: int | None = None,
) -> Edges:
    """t0..t3 for events from ``first`` to ``last``.

    Without a cut-off, t3 is the midnight after ``last``. Without a length, windows have 28 days,
    or as many as leave ``HISTORY_WINDOWS`` of them before t0.

    Raises:
        BadInput: the data end before the cut-off, or their span is too short for a day's window.
    """
    end = shift_days(midnight(last, zone), 1, zone)
    if cutoff is not None and not first < cutoff <= last:
        raise BadInput(
            f"data.cutoff={cutoff.isoformat()} leaves an empty window: the events lie between "
            f"{first.isoformat()} and {last.isoformat()}. Choose a cut-off between them."
        )
    test_windows = 1 if cutoff is None else 0
    days = window_days or _fitting_days(first, cutoff or end, HISTORY_WINDOWS + 2 + test_windows)
    t2 = cutoff or shift_days(end, -days, zone)
    t0, t1, t3 = (shift_days(t2, step * days, zone) for step in (-2, -1, 1))
    if t0 <= first:
        raise BadInput(
            f"Windows of {days} days before {t2.isoformat()} begin at {t0.isoformat()}, when no "
            f"event precedes them (the first is at {first.isoformat()}). Choose a smaller "
            "data.window_days or a later data.cutoff."
        )
    return t0, t1, t2, t3


def earlier_edges(first: datetime, edges: Edges, zone: ZoneInfo) -> tuple[datetime, ...]:
    """Rising starts of windows before t0, as long as [t0, t1), that have history before them."""
    days = (edges[1].astimezone(zone).date() - edges[0].astimezone(zone).date()).days
    found = [shift_days(edges[0], -step * days, zone) for step in range(EARLIER_WINDOWS, 0, -1)]
    return tuple(t for t in found if shift_days(t, -EARLIER_HISTORY * days, zone) >= first)


def _fitting_days(first: datetime, until: datetime, windows: int) -> int:
    days = min(DEFAULT_WINDOW_DAYS, (until - first) // timedelta(days=windows))
    if days < 1:
        raise BadInput(
            f"The events before {until.isoformat()} span {(until - first).days} days; windows of "
            f"one day need at least {windows}. Bring more data, or set data.window_days."
        )
    return days


def snapshot_edges(
    first: datetime, last: datetime, edges: Sequence[datetime], days: int, zone: ZoneInfo
) -> list[datetime]:
    """Rising times every ``days`` days around t2, the last edge but one, and all edges.

    The first is at or before ``first``, the last is after ``last``.
    """
    t2 = edges[-2]
    found = set(edges)
    step = 0
    while shift_days(t2, step, zone) > first:
        step -= days
        found.add(shift_days(t2, step, zone))
    step = 0
    while shift_days(t2, step, zone) <= last:
        step += days
        found.add(shift_days(t2, step, zone))
    return sorted(found)


def empty_windows(edges: Edges, counts: Sequence[int]) -> str | None:
    """A sentence that names the first window without events; None where all have some."""
    names = ("[t0, t1)", "[t1, t2)", "[t2, t3)")
    for index, count in enumerate(counts):
        if count == 0:
            start, stop = edges[index].isoformat(), edges[index + 1].isoformat()
            return f"the window {names[index]} from {start} to {stop} holds no purchase"
    return None
