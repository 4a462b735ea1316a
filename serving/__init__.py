"""Serving: answers from an exported release and an online store, in process or over HTTP.

    from serving import Recommender

    recommender = Recommender.load("releases/current")
    answer = recommender.recommend(user_id=1, n=10)

Names are loaded when they are first used, so that ``import serving`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.answers import Item, Recommendation
    from serving.catalogue import Filters
    from serving.recommender import Recommender

__all__ = ["Filters", "Item", "Recommendation", "Recommender"]

_HOMES = {
    "Filters": "serving.catalogue",
    "Item": "serving.answers",
    "Recommendation": "serving.answers",
    "Recommender": "serving.recommender",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'serving' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
