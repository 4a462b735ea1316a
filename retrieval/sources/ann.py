"""Items whose vectors are nearest to the user's: the two-tower model and its like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK
from retrieval.index import ItemIndex
from retrieval.sources.base import Floats, Ints, UserBatch, empty, padded, unknown_first


@dataclass(frozen=True)
class AnnSource:
    """The nearest items by inner product."""

    index: ItemIndex
    item_vectors: Floats
    """[R, V], may be memory-mapped; row 0 is the unknown item's."""
    new_only: bool = False
    name: str = "ann"

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "ann", "new_only": self.new_only}

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; without user vectors there are no candidates."""
        if users.vectors is None:
            return empty(len(users), k)
        if not self.new_only:
            return padded(*self.index.search(users.vectors, min(k, len(self.index))), k)
        _, offsets = users.every_known
        wanted = k + int(np.diff(offsets).max(initial=0))
        rows, scores = self.index.search(users.vectors, min(wanted, len(self.index)))
        return unknown_first(rows, scores, users, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; exact, whatever the index."""
        if users.vectors is None:
            return np.full(len(item_row), np.nan, dtype=np.float32)
        vectors = np.repeat(users.vectors, np.diff(offsets), axis=0)
        return np.asarray((vectors * self.item_vectors[item_row]).sum(axis=1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Nothing: vectors and index are the bundle's."""
