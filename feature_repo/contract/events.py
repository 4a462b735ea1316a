"""The kinds of event that a shop reports."""

from __future__ import annotations

from enum import StrEnum


class EventType(StrEnum):
    """Canonical event types, by rising commitment."""

    IMPRESSION = "impression"
    VIEW = "view"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    RATING = "rating"


TARGET = "target_item_id"
"""Column of what a session or a label window bought."""
TARGET_EVENTS = (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE)
"""What rankers learn to foresee, where label windows have it."""
EXPOSED_ITEM, EXPOSED_POSITION, EXPOSED_PROPENSITY = (
    "exposed_item_id",
    "exposed_position",
    "exposed_propensity",
)
"""Columns of what a user was shown in a label window: distinct items, the best place of each, from
1, and the logged probability that it was shown, null where there is none. Of shops that log
impressions."""


def target_column(event_type: EventType) -> str:
    """The column of a label window's distinct items that a user had such events with."""
    if event_type is EventType.PURCHASE:
        return TARGET
    return f"target_{event_type.value}_item_id"


def is_label(column: str) -> bool:
    """Whether a column of a training set tells what came after its rows' times."""
    return column.startswith(("target_", "exposed_"))
