"""A reason for an item's place, in words; what explanations are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Something that moved an item up."""

    text: str
    """In words."""
    feature: str
    """The feature that moved it most, of those that the words tell."""
    effect: float | None
    """By how much it raised the logit above the request's mean candidate; null for a popular item
    that no ranker scored."""
