"""What is answered: lists of items, and what became of feedback and of changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from ranking.reason import Reason

ONLY_IF_ASKED = Field(exclude_if=lambda value: value is None)
"""A field that answers have where the request asks for it."""


@dataclass(frozen=True)
class Item:
    """One recommended item, with what the catalogue knows of it."""

    item_id: int | str
    score: float | None
    """The ranker's score, higher is better, not a probability. Where nothing of the user is known
    it is the item's popularity; where an experiment's variant has no ranker, what the item's places
    in the sources are worth; null for an item that fills up a short list."""
    position: int
    """From 1."""
    source: str
    """The candidate source that placed it best; ``given`` where the request alone named it."""
    title: str | None = None
    department: str | None = None
    category: str | None = None
    subcategory: str | None = None
    brand: str | None = None
    brand_tier: str | None = None
    package_size: str | None = None
    price: float | None = None
    sources: Annotated[dict[str, int] | None, ONLY_IF_ASKED] = None
    """Source -> the item's place in its list, from 1; the best place first."""
    reasons: Annotated[list[Reason] | None, ONLY_IF_ASKED] = None
    """What raised the item most; the greatest first."""
    propensity: Annotated[float | None, ONLY_IF_ASKED] = None
    """Where the list explores: how likely the item was to be shown here, given those above."""


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request."""

    recommendation_id: str
    """Name it in the feedback that follows from the answer."""
    items: list[Item]
    """Best first."""
    experiment: str | None
    """Experiment and variant that the answer belongs to, `name:variant`, with commas between those
    of several layers; null where none runs."""
    model_version: str
    index_version: str
    """Of the item index and, after a plus, how many changes of items it has seen since."""
    degraded: list[str]
    """Stages that failed or came too late and were done without, such as "features"."""
    took_ms: float
    cached: bool = False
    """Whether the list was made for an earlier request."""
    explored: Annotated[Any, Field(exclude=True)] = None
    """``serving.exploration.explored.Explored`` until it is logged; None: nothing was explored."""


@dataclass(frozen=True)
class BatchAnswer:
    """The answers to a batch, in the order of its requests."""

    answers: list[Recommendation]


@dataclass(frozen=True)
class ItemsChanged:
    """What became of a change of items."""

    changed: int
    """Items that lists could hold before."""
    new: int
    """Items that they could not."""
    index_version: str
    """Of the worker that took the change; others have it within a second."""


@dataclass(frozen=True)
class Rejected:
    """An event that was not taken, and why."""

    index: int
    """Place in the request, from 0."""
    event_id: str | None
    field: str
    reason: str


@dataclass(frozen=True)
class FeedbackResult:
    """What became of the events of one request."""

    accepted: int
    """Newly written."""
    duplicates: int
    """Known by their ids already."""
    rejected: list[Rejected] = field(default_factory=list)
