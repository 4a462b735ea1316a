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
    tops = list(lists.values())
    num_users = len(tops[0].item_row)
    rows = np.concatenate([top.item_row for top in tops], axis=1)
    span = 1 + max(int(rows.max(initial=0)), *_most(excluded))
    keys = rows + span * np.arange(num_users, dtype=np.int64)[:, None]
    named = rows > 0
    if excluded is not None:
        named &= ~np.isin(keys, user_keys(excluded, span))
    found, place = np.unique(keys[named], return_inverse=True)
    shape = (len(found), len(tops))
    score, rank = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    widths = [top.item_row.shape[1] for top in tops]
    cells = place, np.broadcast_to(np.repeat(np.arange(len(tops)), widths), rows.shape)[named]
    score[cells] = np.concatenate([top.score for top in tops], axis=1)[named]
    places = np.concatenate([np.arange(1, width + 1, dtype=np.float32) for width in widths])
    rank[cells] = np.broadcast_to(places, rows.shape)[named]
    offsets = np.searchsorted(found, span * np.arange(num_users + 1, dtype=np.int64))
    return Candidates(tuple(lists), offsets.astype(np.int64), found % span, score, rank)


def _most(excluded: list[Ints] | None) -> list[int]:
    """The largest row of each list, at least 0."""
    return [0, *(int(rows.max(initial=0)) for rows in excluded or ())]


def user_keys(rows: Sequence[Ints], span: int) -> Ints:
    """``span * user + row`` of every row of each user, one user after the other.

    Args:
        rows: per user, rows below ``span``.
        span: of one user's numbers.
    """
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *(own + span * user for user, own in enumerate(rows))])
