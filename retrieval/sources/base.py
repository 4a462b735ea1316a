"""What a candidate source is, and what all of them use.

Shapes: B users, K candidates, N items to be scored, R rows of the item vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import write_array
from feature_repo.contract.candidates import TopK
from feature_repo.contract.columns import AnyRows
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.state import Histories
from retrieval.kernels import first_unknown

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
    user_row: Ints | None = None
    """[B] rows of the user vocabulary; 0 is a user that it does not know."""
    features: AnyRows | None = None
    """B rows, user features as columns."""

    def __len__(self) -> int:
        return len(self.histories)

    def part(self, start: int, stop: int) -> UserBatch:
        """The users from ``start`` on, to before ``stop``."""
        return UserBatch(
            self.histories.part(start, stop),
            self.now_s[start:stop],
            None if self.vectors is None else self.vectors[start:stop],
            None if self.excluded is None else self.excluded[start:stop],
            None if self.user_row is None else self.user_row[start:stop],
            None if self.features is None else self.features.slice(start, stop - start),
        )

    def worth(self, transform: Transform, half_life_days: float) -> Floats:
        """[N] what each entry of the histories is worth now."""
        return transformed(self.histories.weight_at(self.now_s, half_life_days), transform)

    def known(self, user: int) -> Ints:
        """Rows that a source of new items leaves out: the history and what is excluded."""
        start, stop = self.histories.offsets[user], self.histories.offsets[user + 1]
        mine = self.histories.item_row[start:stop]
        return mine if self.excluded is None else np.concatenate([mine, self.excluded[user]])

    @cached_property
    def every_known(self) -> tuple[Ints, Ints]:
        """What ``known`` says of all users, one after the other, and [B + 1] offsets."""
        if self.excluded is None:
            return self.histories.item_row, self.histories.offsets
        parts = [self.known(user) for user in range(len(self))]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return np.concatenate([np.zeros(0, np.int64), *parts]), offsets.astype(np.int64)


class Source(Protocol):
    """One way to find candidates."""

    @property
    def name(self) -> str:
        """Name in ``Candidates.sources``."""

    @property
    def about(self) -> dict[str, Any]:
        """``kind`` and settings: what ``load_source`` needs beside the files."""

    def top(self, users: UserBatch, k: int) -> TopK:
        """The best ``k`` items of each user, best first."""

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """[N] scores of given items; NaN where the source says nothing of an item.

        Args:
            users: B users.
            offsets: [B + 1]; user b's items are ``[offsets[b], offsets[b + 1])``.
            item_row: [N] rows from 1.
        """

    def save(self, folder: Path) -> None:
        """Write the source's files."""


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


def best_of(offsets: Ints, rows: Ints, scores: Floats, k: int) -> TopK:
    """The ``k`` best of each user's items, those of row 0 left out; see ``best``.

    Args:
        offsets: [B + 1]; user b's items are ``[offsets[b], offsets[b + 1])``.
        rows: [N]
        scores: [N]
        k: K.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((rows, -scores, owner))
    order = order[rows[order] > 0]
    users = owner[order]
    counts = np.bincount(users, minlength=len(offsets) - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, users, place = order[place < k], users[place < k], place[place < k]
    top = empty(len(offsets) - 1, k)
    top.item_row[users, place], top.score[users, place] = rows[order], scores[order]
    return top


def unknown_first(rows_BW: Ints, scores_BW: Floats, users: UserBatch, k: int) -> TopK:
    """The first ``k`` of each user's items, best first, that the user does not know."""
    known, offsets = users.every_known
    size = 1 + max(int(known.max(initial=0)), int(rows_BW.max(initial=0)))
    return TopK(*first_unknown(rows_BW, scores_BW, (offsets, known), size, k))


def padded(rows: Ints, scores: Floats, k: int) -> TopK:
    """Arrays of up to ``k`` columns as one of ``k``."""
    top = empty(len(rows), k)
    top.item_row[:, : rows.shape[1]] = rows
    top.score[:, : rows.shape[1]] = scores
    return top


def where_in(wanted: Ints, rows: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Place of each wanted row among ``rows`` (rising, not empty), and whether it is there."""
    place = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return place, rows[place] == wanted


def spans(offsets: Ints) -> Iterator[tuple[int, slice]]:
    """User and part of a flat array, user by user."""
    for user in range(len(offsets) - 1):
        yield user, slice(int(offsets[user]), int(offsets[user + 1]))


def unit_rows(vectors: Floats) -> Floats:
    """[N, D] each row divided by its length; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def empty(num_users: int, k: int) -> TopK:
    """No candidate for anybody."""
    return TopK(
        np.zeros((num_users, k), dtype=np.int64),
        np.full((num_users, k), np.nan, dtype=np.float32),
    )


def save_arrays(folder: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write arrays as ``<name>.npy``."""
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)


def load_arrays(folder: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    """Memory-map arrays that ``save_arrays`` wrote.

    Raises:
        ArtifactError: one is missing or truncated.
    """
    try:
        return {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in names
        }
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} lacks a whole table of its source: {error}") from error
