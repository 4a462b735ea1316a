"""What may be asked of a recommender, whoever asks: HTTP, a batch or a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.about import About
from serving.catalogue import Filters
from serving.experiments.treatment import Treatment
from serving.ids import BadField, Id, check_id, check_ids

MAX_ITEMS = 100
"""Longest list that one request may ask for."""
MAX_CANDIDATES = 1000
"""Most items that one request may have ranked."""
MAX_ANCHORS = 50
"""Most items that a request may name as seen just now."""
ANY = Filters()


@dataclass(frozen=True)
class Query:
    """One request for a list."""

    user_id: Id
    """Of the type that the shop's data have; an unknown user gets popular items."""
    n: int = 10
    """Length of the list; it is shorter where fewer items pass the filters."""
    exclude_seen: bool = False
    """Leave out what the user is known to have bought."""
    exclude: Sequence[Id] = ()
    """Items to leave out, such as those in the basket."""
    filters: Filters = ANY
    diversity: float | None = None
    """0, the best scores, to 1, the least alike items; None: the release's."""
    explain: bool = False
    """Tell each item's sources and reasons."""
    scenario: str | None = None
    """Name of the ranker; a release without it answers by its usual one, and says so."""
    anchor_items: Sequence[Id] = ()
    """Items that the user has to do with now, latest first: they count as the most recent of the
    history, and are left out."""
    candidate_items: Sequence[Id] | None = None
    """The only items that the list may hold."""
    preferred_categories: Sequence[str] = ()
    """Of these, popular items come earlier where little is known of the user."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What experiments may be targeted by."""
    variant: Mapping[str, str] = field(default_factory=dict)
    """Experiment -> the variant that a tester wants to see."""
    treatment: Treatment | None = None
    """The variants that the list is made by; None: the request is part of no experiment."""

    def require(self, about: About) -> None:
        """Check ids and ranges.

        Raises:
            BadField: one is out of range or of a wrong type, named.
        """
        check_id(self.user_id, about.user_id, "user_id")
        for name in ("exclude", "anchor_items", "candidate_items"):
            check_ids(getattr(self, name) or (), about.item_id, name)
        require_length(self.n, MAX_ITEMS if self.candidate_items is None else MAX_CANDIDATES)
        _at_most("anchor_items", len(self.anchor_items), MAX_ANCHORS)
        _at_most("candidate_items", len(self.candidate_items or ()), MAX_CANDIDATES)
        require_diversity(self.diversity)


def require_length(n: int, most: int = MAX_ITEMS) -> None:
    """Raise ``BadField`` unless a list may be as long."""
    if not 1 <= n <= most:
        raise BadField("n", f"n must be from 1 to {most}; got {n}.")


def require_diversity(strength: float | None) -> None:
    """Raise ``BadField`` unless it is a strength of diversity, or None."""
    if strength is not None and not 0 <= strength <= 1:
        raise BadField("diversity", f"diversity must be from 0 to 1; got {strength}.")


def _at_most(name: str, size: int, most: int) -> None:
    if size > most:
        raise BadField(name, f"{name} may name at most {most} items; got {size}.")
