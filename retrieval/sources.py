"""Candidate sources: each names the best items of a user by one simple idea.

A source is arrays and a rule; those that need fitting are fitted by ``trainer.sources`` and read
here. Shapes: B users, K candidates, R rows of the item vocabulary, M neighbours an item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import write_array
from feature_repo.contract.candidates import TopK
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.state import Histories
from retrieval.index import search

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserBatch:
    """What sources know of B users."""

    histories: Histories
    now_s: Ints
    """[B] epoch seconds."""
    vectors: Floats | None = None
    """[B, V] of the user tower."""
    excluded: list[Ints] | None = None
    """Per user, item rows that are not wanted, beside the history."""

    def __len__(self) -> int:
        return len(self.histories)

    def known(self, user: int) -> Ints:
        """Rows that a source of new items leaves out: the history and what is excluded."""
        start, stop = self.histories.offsets[user], self.histories.offsets[user + 1]
        mine = self.histories.item_row[start:stop]
        return mine if self.excluded is None else np.concatenate([mine, self.excluded[user]])


class Source(Protocol):
    """One way to find candidates."""

    @property
    def name(self) -> str:
        """Name in ``Candidates.sources``."""

    def top(self, users: UserBatch, k: int) -> TopK:
        """The best ``k`` items of each user, best first."""


class Transform(StrEnum):
    """What a decayed count of purchases is worth."""

    BINARY = "binary"
    LOG = "log"
    """log(1 + w)"""
    CLIPPED = "clipped"
    """min(w, 1)"""


_TRANSFORMS: dict[Transform, Callable[[Any], Any]] = {
    Transform.BINARY: lambda weights: (weights > 0).astype(np.float32),
    Transform.LOG: np.log1p,
    Transform.CLIPPED: lambda weights: np.minimum(weights, 1.0),
}


def transformed(weights: Floats, transform: Transform) -> Floats:
    """The worth of decayed counts, float32."""
    return np.asarray(_TRANSFORMS[transform](weights), dtype=np.float32)


@dataclass(frozen=True)
class AnnSource:
    """Items whose vectors are nearest to the user's: the two-tower model."""

    index: Any
    """FAISS, inner product."""
    new_only: bool = False
    name: str = "ann"

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; without user vectors there are no candidates."""
        if users.vectors is None:
            return empty(len(users), k)
        if not self.new_only:
            return padded(*search(self.index, users.vectors, min(k, self.index.ntotal)), k)
        known = [users.known(user) for user in range(len(users))]
        wanted = k + max((len(rows) for rows in known), default=0)
        rows, scores = search(self.index, users.vectors, min(wanted, self.index.ntotal))
        lists = []
        for user, mine in enumerate(known):
            kept = np.flatnonzero(~np.isin(rows[user], mine) & (rows[user] > 0))[:k]
            lists.append((rows[user][kept], scores[user][kept]))
        return stacked(lists, k)


@dataclass(frozen=True)
class BuyAgainSource:
    """What the user bought most, of late."""

    half_life_days: float
    name: str = "buy_again"

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; the score is the decayed count as of now."""
        histories = users.histories
        weights = histories.weight_at(users.now_s, self.half_life_days)
        lists = []
        for user in range(len(users)):
            part = slice(int(histories.offsets[user]), int(histories.offsets[user + 1]))
            rows, scores = histories.item_row[part], weights[part]
            known = rows > 0
            lists.append(best(rows[known], scores[known], k))
        return stacked(lists, k)


@dataclass(frozen=True)
class PopularSource:
    """The same list for everybody."""

    name: str
    rows: Ints
    """[N] best first."""
    scores: Floats
    new_only: bool = False

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

    def save(self, folder: Path) -> None:
        """Write the list."""
        _save_arrays(folder, rows=self.rows, scores=self.scores)

    @staticmethod
    def load(folder: Path, name: str, new_only: bool) -> PopularSource:
        """Read a saved list."""
        arrays = _load_arrays(folder, "rows", "scores")
        return PopularSource(name, np.asarray(arrays["rows"]), arrays["scores"], new_only)


@dataclass(frozen=True)
class NeighbourSource:
    """Items near to those that the user bought: item-kNN, EASE.

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
        histories = users.histories
        worth = transformed(histories.weight_at(users.now_s, self.half_life_days), self.transform)
        lists = []
        for user in range(len(users)):
            part = slice(int(histories.offsets[user]), int(histories.offsets[user + 1]))
            scores = self.scores(histories.item_row[part], worth[part])
            if self.new_only:
                known = users.known(user)
                place = np.searchsorted(self.universe, known)
                place = np.minimum(place, len(self.universe) - 1)
                scores[place[self.universe[place] == known]] = 0.0
            found = np.flatnonzero(scores > 0)
            lists.append(best(self.universe[found], scores[found], k))
        return stacked(lists, k)

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
        _save_arrays(folder, neighbours=self.neighbours, weights=self.weights)

    @staticmethod
    def load(
        folder: Path, name: str, transform: Transform, half_life_days: float, new_only: bool
    ) -> NeighbourSource:
        """Memory-map a saved neighbour table."""
        arrays = _load_arrays(folder, "neighbours", "weights")
        return NeighbourSource(
            name, arrays["neighbours"], arrays["weights"], transform, half_life_days, new_only
        )


def best(rows: Ints, scores: npt.NDArray[Any], k: int) -> tuple[Ints, Floats]:
    """The ``k`` best of one user's items, best first; equal scores by the lowest row."""
    if len(rows) > k:
        kept = np.argpartition(-scores, k - 1)[:k]
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))
    return rows[order].astype(np.int64), scores[order].astype(np.float32)


def stacked(lists: list[tuple[Ints, Floats]], k: int) -> TopK:
    """Lists of up to ``k`` items as one padded array."""
    top = empty(len(lists), k)
    for user, (rows, scores) in enumerate(lists):
        top.item_row[user, : len(rows)] = rows
        top.score[user, : len(rows)] = scores
    return top


def padded(rows: Ints, scores: Floats, k: int) -> TopK:
    """Arrays of up to ``k`` columns as one of ``k``."""
    top = empty(len(rows), k)
    top.item_row[:, : rows.shape[1]] = rows
    top.score[:, : rows.shape[1]] = scores
    return top


def empty(num_users: int, k: int) -> TopK:
    """No candidate for anybody."""
    return TopK(
        np.zeros((num_users, k), dtype=np.int64),
        np.full((num_users, k), np.nan, dtype=np.float32),
    )


def _save_arrays(folder: Path, **arrays: npt.NDArray[Any]) -> None:
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)


def _load_arrays(folder: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    try:
        return {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in names
        }
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} lacks a whole table of its source: {error}") from error
