"""Items near to those that a user bought: item-kNN, EASE, items of the same group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import TopK
from retrieval.kernels import best_neighbours, neighbour_scores
from retrieval.sources.base import (
    Floats,
    Ints,
    Transform,
    UserBatch,
    load_arrays,
    save_arrays,
    spans,
    where_in,
)


@dataclass(frozen=True)
class NeighbourSource:
    """Items near to those that the user bought; M neighbours an item.

    The score of an item is the sum over the history of the entry's worth times the weight from
    that entry to the item.
    """

    name: str
    neighbours: npt.NDArray[np.int32]
    """[R, M] item rows; 0 pads."""
    weights: Floats
    """[R, M]; may be negative."""
    transform: Transform
    half_life_days: float
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {
            "kind": "neighbours",
            "new_only": self.new_only,
            "transform": self.transform.value,
            "half_life_days": self.half_life_days,
        }

    @cached_property
    def universe(self) -> Ints:
        """[U] rows that are anybody's neighbour, rising; the first is 0, the padding."""
        return np.unique(np.append(self.neighbours.ravel(), 0)).astype(np.int64)

    @cached_property
    def places(self) -> npt.NDArray[np.int32]:
        """[R, M] the neighbours as places in the universe."""
        return np.searchsorted(self.universe, self.neighbours).astype(np.int32)

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``."""
        histories, worth = users.histories, users.worth(self.transform, self.half_life_days)
        history = histories.offsets, histories.item_row, worth
        left_out = self._known(users)
        found = best_neighbours(history, self.places, self.weights, self.universe, left_out, k)
        return TopK(*found)

    def _known(self, users: UserBatch) -> tuple[Ints, Ints]:
        """[B + 1] offsets and places in the universe of the items that are left out."""
        if not self.new_only:
            return np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int64)
        rows, offsets = users.every_known
        place, found = where_in(rows, self.universe)
        return offsets, np.where(found, place, 0)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN for what is nobody's neighbour."""
        histories, worth = users.histories, users.worth(self.transform, self.half_life_days)
        found = np.full(len(item_row), np.nan, dtype=np.float32)
        for user, part in spans(offsets):
            mine = slice(int(histories.offsets[user]), int(histories.offsets[user + 1]))
            scores = self.scores(histories.item_row[mine], worth[mine])
            place, known = where_in(item_row[part], self.universe)
            found[part] = np.where(known, scores[place], np.nan)
        return found

    def scores(self, history_rows: Ints, worth: Floats) -> Floats:
        """[U] the score of each item of the universe for one history."""
        return neighbour_scores(history_rows, worth, self.places, self.weights, len(self.universe))

    def save(self, folder: Path) -> None:
        """Write the neighbour table."""
        save_arrays(folder, neighbours=self.neighbours, weights=self.weights)

    @staticmethod
    def load(
        folder: Path, name: str, transform: Transform, half_life_days: float, new_only: bool
    ) -> NeighbourSource:
        """Memory-map a saved neighbour table."""
        arrays = load_arrays(folder, "neighbours", "weights")
        return NeighbourSource(
            name, arrays["neighbours"], arrays["weights"], transform, half_life_days, new_only
        )
