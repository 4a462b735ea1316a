"""Items near to those that a user bought: item-kNN, EASE, items of the same group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import (
    Floats,
    Ints,
    Transform,
    UserBatch,
    best,
    load_arrays,
    save_arrays,
    spans,
    stacked,
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
        lists = []
        for user, part in spans(histories.offsets):
            scores = self.scores(histories.item_row[part], worth[part])
            if self.new_only:
                place, found = where_in(users.known(user), self.universe)
                scores[place[found]] = 0.0
            kept = np.flatnonzero(scores > 0)
            lists.append(best(self.universe[kept], scores[kept], k))
        return stacked(lists, k)

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

    def scores(self, history_rows: Ints, worth: Floats) -> npt.NDArray[np.float64]:
        """[U] the score of each item of the universe for one history."""
        places = self.places[history_rows]
        values = self.weights[history_rows] * worth[:, None]
        found = np.bincount(places.ravel(), values.ravel(), minlength=len(self.universe))
        scores: npt.NDArray[np.float64] = found.astype(np.float64, copy=False)
        scores[0] = 0.0
        return scores

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
