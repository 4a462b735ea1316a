"""Users and items as vectors of one table each: matrix factorisation, graph convolution.

A user that the tables lack, or one without a vector, is folded in: its vector is the sum of its
items' fold-in vectors. Shapes: U rows of users, R of items, V width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK
from retrieval.index import ItemIndex
from retrieval.sources.ann import AnnSource
from retrieval.sources.base import (
    Floats,
    Ints,
    UserBatch,
    load_arrays,
    save_arrays,
    spans,
)


@dataclass(frozen=True)
class FactorSource:
    """The items with the largest dot products."""

    name: str
    user_vectors: Floats
    """[U, V], may be memory-mapped; row 0 is the unknown user's and is not read."""
    item_vectors: Floats
    """[R, V]"""
    fold_in: Floats
    """[R, V] what an item of the history adds to the vector of a user without one."""
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "factors", "new_only": self.new_only}

    def vectors(self, users: UserBatch) -> Floats:
        """[B, V] the users' own vectors, or those folded in."""
        rows = np.zeros(len(users), np.int64) if users.user_row is None else users.user_row
        found = np.array(self.user_vectors[rows], dtype=np.float32)
        strangers = (rows == 0) | ~found.any(axis=1)
        for user, part in spans(users.histories.offsets):
            if strangers[user]:
                mine = users.histories.item_row[part]
                found[user] = self.fold_in[mine[mine > 0]].sum(axis=0)
        return found

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; a stranger without a history has no candidates."""
        vectors = self.vectors(users)
        found = self._ann.top(replace(users, vectors=vectors), k)
        rows = np.where(vectors.any(axis=1, keepdims=True), found.item_row, 0)
        return TopK(rows, np.where(rows > 0, found.score, np.float32(np.nan)))

    @cached_property
    def _ann(self) -> AnnSource:
        index = ItemIndex.exact(self.item_vectors)
        return AnnSource(index, self.item_vectors, self.new_only, self.name)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``."""
        return self._ann.score(replace(users, vectors=self.vectors(users)), offsets, item_row)

    def save(self, folder: Path) -> None:
        """Write the vectors."""
        save_arrays(
            folder,
            user_vectors=self.user_vectors,
            item_vectors=self.item_vectors,
            fold_in=self.fold_in,
        )

    @staticmethod
    def load(folder: Path, name: str, new_only: bool) -> FactorSource:
        """Memory-map saved vectors."""
        arrays = load_arrays(folder, "user_vectors", "item_vectors", "fold_in")
        return FactorSource(
            name, arrays["user_vectors"], arrays["item_vectors"], arrays["fold_in"], new_only
        )
