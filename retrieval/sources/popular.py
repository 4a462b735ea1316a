"""What many buy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import (
    Floats,
    Ints,
    UserBatch,
    load_arrays,
    save_arrays,
    stacked,
    where_in,
)


@dataclass(frozen=True)
class PopularSource:
    """The same list for everybody."""

    name: str
    rows: Ints
    """[N] best first."""
    scores: Floats
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "popular", "new_only": self.new_only}

    @cached_property
    def rising(self) -> tuple[Ints, Floats]:
        """The rows in rising order after row 0, with their scores."""
        order = np.argsort(self.rows)
        rows = np.concatenate([[0], self.rows[order]]).astype(np.int64)
        return rows, np.concatenate([[np.nan], self.scores[order]]).astype(np.float32)

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``."""
        if not self.new_only:
            part = self.rows[:k], self.scores[:k]
            return stacked([part] * len(users), k)
        lists = []
        for user in range(len(users)):
            known = users.known(user)
            head = slice(0, k + len(known))
            kept = np.flatnonzero(~np.isin(self.rows[head], known))[:k]
            lists.append((self.rows[kept], self.scores[kept]))
        return stacked(lists, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``."""
        rows, scores = self.rising
        place, found = where_in(item_row, rows)
        return np.where(found, scores[place], np.float32(np.nan))

    def save(self, folder: Path) -> None:
        """Write the list."""
        save_arrays(folder, rows=self.rows, scores=self.scores)

    @staticmethod
    def load(folder: Path, name: str, new_only: bool) -> PopularSource:
        """Read a saved list."""
        arrays = load_arrays(folder, "rows", "scores")
        return PopularSource(name, np.asarray(arrays["rows"]), arrays["scores"], new_only)
