"""What was looked at in the sessions of late, so that lists follow it before any model does."""

from __future__ import annotations

from collections import OrderedDict

from feature_repo.contract.event_log import Line
from feature_repo.contract.events import EventType
from serving.ids import Id

MAX_ITEMS = 20
"""Items that are kept of a session, and"""
MAX_SESSIONS = 100_000
"""sessions, those with the latest events."""
INTEREST = frozenset(
    kind.value
    for kind in (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE)
)
"""Events that show interest in an item."""


class Sessions:
    """The last items of each session."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, tuple[Id, ...]] = OrderedDict()

    def see(self, event: Line) -> None:
        """Take an event of the feedback log."""
        session_id = event.get("session_id")
        if session_id is None or event["event_type"] not in INTEREST:
            return
        before = self._items.pop(session_id, ())
        items = dict.fromkeys([event["item_id"], *before])
        self._items[session_id] = tuple(items)[:MAX_ITEMS]
        if len(self._items) > MAX_SESSIONS:
            self._items.popitem(last=False)

    def items(self, session_id: str | None) -> tuple[Id, ...]:
        """The items of a session, latest first."""
        return () if session_id is None else self._items.get(session_id, ())
