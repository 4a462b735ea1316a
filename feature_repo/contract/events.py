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
