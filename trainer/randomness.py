"""What a run draws random numbers for."""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """What numbers are drawn for; each has a sequence of its own."""

    USER_ID = 1
    ITEM_ID = 2
    NEGATIVES = 3
    LAYERS = 4
    TABLES = 5
    NEIGHBOURS = 6
    HELD_OUT = 7
