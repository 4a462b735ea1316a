"""Purchases that the online state took from feedback, and what of the state they make.

A shop's canonical events sum up equal lines, of one user, item and second. So does this.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feature_repo.contract.activity import Basket
from feature_repo.contract.dataset import parse_time
from feature_repo.contract.events import EventType
from feature_repo.contract.state import Id

AHEAD = timedelta(days=1)
"""Events that claim to have happened so long after they arrived come from a wrong clock."""


def is_ahead(line: Mapping[str, Any]) -> bool:
    """Whether an event's time cannot be true; it then counts nowhere."""
    received = line.get("received_at")
    if not received:
        return False
    return parse_time(line["event_timestamp"]) > parse_time(received) + AHEAD


@dataclass(frozen=True)
class Purchase:
    """One purchase of the feedback log, and where in the log it stands."""

    key: str
    """Of its ``event_id``."""
    item_id: Id
    time_s: int
    quantity: int
    price: float | None
    log: str
    """Which machine's log, and"""
    segment: int
    """the segment of it that the line is in, or will be in once it is cut."""

    @staticmethod
    def of(line: Mapping[str, Any], log: str, segment: int) -> Purchase | None:
        """Read a line of the log; None where it is another kind of event.

        Raises:
            BadInput, KeyError, TypeError: it is no event.
        """
        if line["event_type"] != EventType.PURCHASE.value or is_ahead(line):
            return None
        time = parse_time(line["event_timestamp"])
        price = line.get("price")
        return Purchase(
            key=hashlib.blake2b(line["event_id"].encode(), digest_size=8).hexdigest(),
            item_id=line["item_id"],
            time_s=int(time.timestamp() // 1),
            quantity=int(line.get("quantity") or 1),
            price=None if price is None else float(price),
            log=log,
            segment=segment,
        )


def baskets(purchases: Iterable[Purchase]) -> list[tuple[int, list[Id]]]:
    """The distinct items of each time, times rising."""
    found: dict[int, dict[Id, None]] = defaultdict(dict)
    for one in purchases:
        found[one.time_s][one.item_id] = None
    return [(time_s, list(found[time_s])) for time_s in sorted(found)]


def totals(purchases: Iterable[Purchase]) -> list[Basket]:
    """What each time's lines come to, times rising."""
    lines: dict[int, dict[Id, list[Purchase]]] = defaultdict(lambda: defaultdict(list))
    for one in purchases:
        lines[one.time_s][one.item_id].append(one)
    return [
        Basket(time_s, len(items), sum(map(_spend, items.values())))
        for time_s, items in sorted(lines.items())
    ]


def _spend(line: list[Purchase]) -> float:
    """Of equal lines: their quantity at the mean price of those that have one."""
    priced = [one for one in line if one.price is not None]
    if not priced:
        return 0.0
    paid = sum((one.price or 0.0) * one.quantity for one in priced)
    price = paid / sum(one.quantity for one in priced)
    return price * sum(one.quantity for one in line)


def latest_first(purchases: Iterable[Purchase]) -> tuple[Id, ...]:
    """The distinct items, those bought last first; by the lowest id within one time."""
    last: dict[Id, int] = {}
    for one in purchases:
        last[one.item_id] = max(one.time_s, last.get(one.item_id, one.time_s))
    return tuple(sorted(last, key=lambda item_id: (-last[item_id], item_id)))
