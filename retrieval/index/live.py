"""What changed since an index was built: hidden rows, and new vectors beside it.

States are immutable: a search keeps the one that it began with, whatever is changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from retrieval.index.allowed import Allowed
from retrieval.index.changes import Id

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fresh:
    """Vectors that are searched one by one."""

    rows: Ints
    """[F] rising item rows; of an item that the index has too, the index's row is hidden."""
    vectors: Floats
    """[F, V]"""

    def without(self, rows: Ints) -> Fresh:
        """All but some rows."""
        kept = ~np.isin(self.rows, rows)
        return self if kept.all() else Fresh(self.rows[kept], self.vectors[kept])

    def plus(self, rows: Ints, vectors_NV: Floats) -> Fresh:
        """With vectors of rows that it does not have."""
        every = np.concatenate([self.rows, rows])
        order = np.argsort(every, kind="stable")
        return Fresh(every[order], np.concatenate([self.vectors, vectors_NV])[order])

    def top(self, users_BV: Floats, k: int, allowed: Allowed | None) -> tuple[Ints, Floats]:
        """[B, at most k] best rows and their scores; in no order."""
        rows, vectors = self.rows, self.vectors
        if allowed is not None:
            kept = allowed.contains(rows)
            rows, vectors = rows[kept], vectors[kept]
        scores = users_BV @ vectors.T
        if len(rows) <= k:
            return np.broadcast_to(rows, scores.shape), scores
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return rows[best], np.take_along_axis(scores, best, axis=1)


@dataclass(frozen=True)
class Live:
    """The changes to an index of N items."""

    hidden: Bools
    """[N + 1] rows of the index that are removed, or replaced by fresh vectors."""
    num_hidden: int
    new_rows: Mapping[Id, int]
    """Ids that the item vocabulary lacks -> their rows, from N + 1 in the order they came."""
    fresh: Fresh

    @staticmethod
    def unchanged(num_items: int, dim: int) -> Live:
        """Nothing has changed yet."""
        fresh = Fresh(np.zeros(0, dtype=np.int64), np.zeros((0, dim), dtype=np.float32))
        return Live(np.zeros(num_items + 1, dtype=np.bool_), 0, {}, fresh)

    def added(self, rows: Ints, vectors_NV: Floats) -> Live:
        """Rows have these vectors now, whatever they had before."""
        found = self.removed(rows)
        return replace(found, fresh=found.fresh.plus(rows, vectors_NV))

    def removed(self, rows: Ints) -> Live:
        """Rows are found no more."""
        hidden = self.hidden.copy()
        hidden[rows[rows < len(hidden)]] = True
        return replace(
            self,
            hidden=hidden,
            num_hidden=int(np.count_nonzero(hidden)),
            fresh=self.fresh.without(rows),
        )

    def named(self, new_ids: list[Id]) -> Live:
        """With rows for ids that are not known yet."""
        first = len(self.hidden) + len(self.new_rows)
        rows = {new_id: first + place for place, new_id in enumerate(new_ids)}
        return replace(self, new_rows={**self.new_rows, **rows})
