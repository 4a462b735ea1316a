"""What bandits learn from: sums over items shown and rewards, which many processes may add to.

Every number is a plain sum, so that increments of different workers commute, and the sums are the
same in whatever order they come. D numbers of a context, C arms of one request, I items.

An item that was shown at a place looked at with weight w (1 for the first), in the context x, of
which the ranker expected e, adds w^2, w^2 e and w^2 x; a reward y adds w y. The least squares of
``y = w (e + theta x + gamma_item)`` need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Id = int | str

SHARED = ""
"""Name of the sums over all items, among those of items."""
COUNT, REWARD, EXPECTED = 0, 1, 2
"""Columns of an item's sums; its contexts follow."""


def item_width(dim: int) -> int:
    """How many sums an item has."""
    return 3 + dim


def shared_width(dim: int) -> int:
    """How many sums there are over all items: x x^T, x y and x e."""
    return dim * dim + 2 * dim


@dataclass(frozen=True)
class Shown:
    """One item that was shown."""

    item_id: Id
    context_D: Doubles
    expected: float
    """Reward that the ranker expected."""
    weight: float = 1.0
    """How often its place is looked at, against the first."""

    def increments(self) -> dict[str, Doubles]:
        """Name of sums -> what being shown adds."""
        x_D, square = self.context_D, self.weight**2
        own = np.concatenate([[square, 0.0, square * self.expected], square * x_D])
        products = square * np.outer(x_D, x_D).ravel()
        shared = np.concatenate([products, np.zeros_like(x_D), square * self.expected * x_D])
        return {name_of(self.item_id): own, SHARED: shared}

    def rewards(self) -> dict[str, Doubles]:
        """Name of sums -> what a reward of 1 adds."""
        dim = len(self.context_D)
        own, shared = np.zeros(item_width(dim)), np.zeros(shared_width(dim))
        own[REWARD] = self.weight
        shared[dim * dim : dim * dim + dim] = self.weight * self.context_D
        return {name_of(self.item_id): own, SHARED: shared}


def name_of(item_id: Id) -> str:
    """Of an item's sums; an id as a number and one as a text are the same in one shop."""
    return f"i{item_id}"


def added(parts: Iterable[Mapping[str, Doubles]]) -> dict[str, Doubles]:
    """Increments together."""
    total: dict[str, Doubles] = {}
    for part in parts:
        for name, more in part.items():
            total[name] = total[name] + more if name in total else more
    return total


@dataclass
class Sums:
    """The sums of one scenario as a process knows them."""

    dim: int
    shared: Doubles = field(init=False)
    items: Doubles = field(init=False)
    """[I or more, 3 + D]"""
    place: dict[str, int] = field(default_factory=dict)
    """Name of an item's sums -> row of ``items``; row 0 is of items never shown."""

    def __post_init__(self) -> None:
        self.shared = np.zeros(shared_width(self.dim))
        self.items = np.zeros((1024, item_width(self.dim)))

    def set(self, values: Mapping[str, Doubles]) -> None:
        """Take over the newest sums of some items."""
        for name, sums in values.items():
            if name == SHARED:
                self.shared = np.array(sums, dtype=np.float64)
            else:
                row = self._row(name)  # which may make room
                self.items[row] = sums

    def add(self, increments: Mapping[str, Doubles], times: float = 1.0) -> None:
        """Add to the sums, where no other process does."""
        for name, more in increments.items():
            if name == SHARED:
                self.shared += times * more
            else:
                row = self._row(name)
                self.items[row] += times * more

    def copy(self) -> Sums:
        """The same sums, which change no more with these."""
        found = Sums(self.dim)
        found.shared, found.items = self.shared.copy(), self.items.copy()
        found.place = dict(self.place)
        return found

    def rows(self, item_ids: Sequence[Id]) -> Ints:
        """[C] rows of ``items``; 0 of those that were never shown."""
        place = self.place
        return np.array([place.get(f"i{item_id}", 0) for item_id in item_ids], np.int64)

    @property
    def num_items(self) -> int:
        """How many were shown."""
        return len(self.place)

    def _row(self, name: str) -> int:
        row = self.place.setdefault(name, len(self.place) + 1)
        if row >= len(self.items):
            self.items = np.concatenate([self.items, np.zeros_like(self.items)])
        return row
