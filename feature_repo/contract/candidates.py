"""Candidates of B users: what retrieval hands to ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.contract.columns import taken
from feature_repo.contract.errors import BadInput

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TopK:
    """The best items of one source for B users, best first."""

    item_row: Ints
    """[B, K]; 0 pads a row that has fewer."""
    score: Floats
    """[B, K] the source's own score; NaN on padding."""

    def __post_init__(self) -> None:
        if self.item_row.shape != self.score.shape or self.item_row.ndim != 2:
            raise BadInput(
                f"Items and scores must both be [B, K]; got {self.item_row.shape} "
                f"and {self.score.shape}."
            )


@dataclass(frozen=True)
class Candidates:
    """Distinct candidate items of B users; user b owns ``[offsets[b], offsets[b+1])``."""

    sources: tuple[str, ...]
    """S names, in the order of the columns below."""
    offsets: Ints
    """[B+1]"""
    item_row: Ints
    """[N] rows of the item vocabulary, from 1; rising within a user."""
    score: Floats
    """[N, S] each source's score; NaN where the source did not name the item."""
    rank: Floats
    """[N, S] place in the source's list, from 1; NaN where it did not name the item."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice_of(self, user: int) -> slice:
        """Where one user's candidates lie."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def places_of(self, users: Ints) -> Ints:
        """Where the candidates of some users lie, one user after the other."""
        return taken(self.offsets, users)[0]

    def take(self, users: Ints) -> Candidates:
        """The candidates of some users, in the order of ``users``."""
        if np.array_equal(users, np.arange(len(self))):
            return self
        places, offsets = taken(self.offsets, users)
        return Candidates(
            self.sources, offsets, self.item_row[places], self.score[places], self.rank[places]
        )

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        """The candidates of all parts' users, one after the other; all are of the same sources."""
        sizes = np.concatenate([np.diff(part.offsets) for part in parts])
        return Candidates(
            parts[0].sources,
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            np.concatenate([part.item_row for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.rank for part in parts]),
        )


def merge(lists: dict[str, TopK], excluded: list[Ints] | None = None) -> Candidates:
    """Merge the lists of all sources; an item of several sources is one candidate.

    Args:
        lists: source name -> its best items; all over the same B users.
        excluded: per user, item rows that must not become candidates.
    """
    if not lists:
        raise BadInput("There is no source to merge; name at least one.")
    sources = tuple(lists)
    num_users = len(next(iter(lists.values())).item_row)
    parts = [
        _merge_user(lists, sources, user, None if excluded is None else excluded[user])
        for user in range(num_users)
    ]
    sizes = np.array([len(rows) for rows, _, _ in parts], dtype=np.int64)
    return Candidates(
        sources,
        np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]),
        np.concatenate([rows for rows, _, _ in parts]) if parts else np.zeros(0, np.int64),
        np.concatenate([score for _, score, _ in parts])
        if parts
        else np.zeros((0, len(sources)), np.float32),
        np.concatenate([rank for _, _, rank in parts])
        if parts
        else np.zeros((0, len(sources)), np.float32),
    )


def _merge_user(
    lists: dict[str, TopK], sources: tuple[str, ...], user: int, excluded: Ints | None
) -> tuple[Ints, Floats, Floats]:
    named = [lists[source].item_row[user] for source in sources]
    rows, place = np.unique(np.concatenate(named), return_inverse=True)
    score = np.full((len(rows), len(sources)), np.nan, dtype=np.float32)
    rank = np.full((len(rows), len(sources)), np.nan, dtype=np.float32)
    start = 0
    for column, source in enumerate(sources):
        width = len(named[column])
        mine = place[start : start + width]
        score[mine, column] = lists[source].score[user]
        rank[mine, column] = np.arange(1, width + 1)
        start += width
    kept = rows > 0
    if excluded is not None and len(excluded):
        kept &= ~np.isin(rows, excluded)
    return rows[kept].astype(np.int64), score[kept], rank[kept]
