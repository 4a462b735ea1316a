"""What many buy: one list for everybody, or one for each segment of users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import TopK
from feature_repo.contract.columns import texts_of
from retrieval.sources.base import (
    Floats,
    Ints,
    UserBatch,
    load_arrays,
    save_arrays,
    spans,
    stacked,
    unknown_first,
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
            return stacked([self.head(k)] * len(users), k)
        _, offsets = users.every_known
        head = slice(0, k + int(np.diff(offsets).max(initial=0)))
        shape = (len(users), len(self.rows[head]))
        rows = np.broadcast_to(self.rows[head], shape)
        scores = np.broadcast_to(self.scores[head], shape)
        return unknown_first(rows, scores, users, k)

    def head(self, k: int, known: Ints | None = None) -> tuple[Ints, Floats]:
        """The first ``k`` of the list, without the known ones."""
        if known is None:
            return self.rows[:k], self.scores[:k]
        part = slice(0, k + len(known))
        kept = np.flatnonzero(~np.isin(self.rows[part], known))[:k]
        return self.rows[kept], self.scores[kept]

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``."""
        return self.scores_of(item_row)

    def scores_of(self, item_row: Ints) -> Floats:
        """[N] scores of items; NaN for those outside of the list."""
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


@dataclass(frozen=True)
class SegmentPopularSource:
    """The list of the user's segment; users whose segment is not known get everybody's."""

    name: str
    attribute: str
    """User feature whose value is the segment."""
    segments: tuple[str, ...]
    """S values."""
    rows: Ints
    """[S + 1, N] lists, best first, padded with 0: everybody's, then one a segment."""
    scores: Floats
    """[S + 1, N]"""
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {
            "kind": "segment_popular",
            "new_only": self.new_only,
            "attribute": self.attribute,
            "segments": list(self.segments),
        }

    @cached_property
    def lists(self) -> tuple[PopularSource, ...]:
        """S + 1 lists."""
        return tuple(
            PopularSource(self.name, rows[rows > 0], scores[rows > 0], self.new_only)
            for rows, scores in zip(self.rows, self.scores, strict=True)
        )

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``."""
        heads = []
        for user, place in enumerate(self.places(users)):
            known = users.known(user) if self.new_only else None
            heads.append(self.lists[place].head(k, known))
        return stacked(heads, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN for items outside of the segment's list."""
        found = np.full(len(item_row), np.nan, dtype=np.float32)
        places = self.places(users)
        for user, part in spans(offsets):
            found[part] = self.lists[places[user]].scores_of(item_row[part])
        return found

    def places(self, users: UserBatch) -> npt.NDArray[np.int64]:
        """[B] place of each user's list; 0 is everybody's."""
        if users.features is None or self.attribute not in users.features.column_names:
            return np.zeros(len(users), dtype=np.int64)
        values = texts_of(users.features, self.attribute)
        place = {segment: 1 + index for index, segment in enumerate(self.segments)}
        return np.array(
            [0 if value is None else place.get(value, 0) for value in values], dtype=np.int64
        )

    def save(self, folder: Path) -> None:
        """Write the lists."""
        save_arrays(folder, rows=self.rows, scores=self.scores)

    @staticmethod
    def load(
        folder: Path, name: str, attribute: str, segments: tuple[str, ...], new_only: bool
    ) -> SegmentPopularSource:
        """Memory-map saved lists."""
        arrays = load_arrays(folder, "rows", "scores")
        return SegmentPopularSource(
            name, attribute, segments, arrays["rows"], arrays["scores"], new_only
        )
