"""What was looked at in the sessions of late, so that lists follow it before any model does."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from feature_repo.contract.dataset import parse_time
from feature_repo.contract.event_log import Line
from feature_repo.contract.events import EventType
from serving.ids import Id

MAX_ITEMS = 20
"""Items that are kept of a session, and"""
MAX_SESSIONS = 100_000
"""sessions, those with the latest events; as many users."""
LOOKS = frozenset(kind.value for kind in (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART))
"""Events that show interest in an item and leave no trace in the user's stored state."""
INTEREST = LOOKS | {EventType.PURCHASE.value}
"""Events that show interest in an item."""

Key = TypeVar("Key", bound=Hashable)
Values = TypeVar("Values")


class Sessions:
    """The last items of each session, and of each user for a while."""

    def __init__(self, recent_s: float = 0.0, clock: Callable[[], float] = time.time) -> None:
        """Know nothing yet.

        Args:
            recent_s: seconds for which a user's looks count without a session.
            clock: the wall's, in epoch seconds.
        """
        self._recent_s, self._clock = recent_s, clock
        self._items: OrderedDict[str, tuple[Id, ...]] = OrderedDict()
        self._looks: OrderedDict[Id, tuple[tuple[float, Id], ...]] = OrderedDict()

    def see(self, event: Line) -> None:
        """Take an event of the feedback log."""
        session_id, kind = event.get("session_id"), event["event_type"]
        if session_id is not None and kind in INTEREST:
            before = self._items.get(session_id, ())
            items = dict.fromkeys([event["item_id"], *before])
            _keep(self._items, session_id, tuple(items)[:MAX_ITEMS])
        if self._recent_s and kind in LOOKS and event.get("received_at"):
            at = parse_time(event["received_at"]).timestamp()
            user_id, item_id = event["user_id"], event["item_id"]
            others = (look for look in self._looks.get(user_id, ()) if look[1] != item_id)
            _keep(self._looks, user_id, ((at, item_id), *others)[:MAX_ITEMS])

    def items(self, session_id: str | None) -> tuple[Id, ...]:
        """The items of a session, latest first."""
        return () if session_id is None else self._items.get(session_id, ())

    def looked_at(self, user_id: Id | None) -> tuple[Id, ...]:
        """What a user looked at of late, in whichever session, latest first."""
        looks = self._looks.get(user_id, ()) if user_id is not None else ()
        since = self._clock() - self._recent_s
        return tuple(item_id for at, item_id in looks if at >= since)


def _keep(kept: OrderedDict[Key, Values], key: Key, values: Values) -> None:
    """Put values last, and drop the first where there are too many."""
    kept.pop(key, None)
    kept[key] = values
    if len(kept) > MAX_SESSIONS:
        kept.popitem(last=False)
