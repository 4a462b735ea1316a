"""From scored candidates to lists: exclusions, filters, the best K and where each came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import list_column
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SEEN = "seen_item_id"
HISTORY = "history_item_id"


class Filter(Protocol):
    """A rule that takes candidates out, such as "not available"."""

    def __call__(self, candidates: Candidates) -> Bools:
        """[N] whether each candidate may be shown."""


@dataclass(frozen=True)
class Lists:
    """The best K items of B users, best first."""

    item_row: Ints
    """[B, K]; 0 pads a list that is short."""
    score: Floats
    """[B, K]; NaN on padding."""
    source: Ints
    """[B, K] index into ``sources``; -1 on padding."""
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.item_row)

    def of(self, user: int) -> tuple[Ints, Floats, list[str]]:
        """Rows, scores and names of the main sources of one user's list, without padding."""
        kept = self.item_row[user] > 0
        names = [self.sources[index] for index in self.source[user][kept]]
        return self.item_row[user][kept], self.score[user][kept], names


def users_of(candidates: Candidates) -> Ints:
    """[N] the user of each candidate, from 0."""
    return np.repeat(np.arange(len(candidates), dtype=np.int64), np.diff(candidates.offsets))


def main_source(candidates: Candidates) -> Ints:
    """[N] the source that places each candidate best; the first of equals."""
    places = np.where(np.isnan(candidates.rank), np.inf, candidates.rank)
    return np.asarray(places.argmin(axis=1), dtype=np.int64)


def rank_lists(
    candidates: Candidates,
    scores: Floats,
    k: int,
    *,
    excluded: Sequence[Ints] | None = None,
    filters: Sequence[Filter] = (),
) -> Lists:
    """Keep what may be shown and take each user's best ``k``, the lower row first among equals.

    Args:
        candidates: of B users.
        scores: [N] higher is better.
        k: places of a list.
        excluded: per user, item rows that must not be shown.
        filters: rules that every item shown must pass.

    Raises:
        BadInput: the scores are not one finite number a candidate, or ``k`` is below 1.
    """
    _require_scores(candidates, scores, k)
    users = users_of(candidates)
    keep = _kept(candidates, users, excluded, filters)
    order = np.lexsort((candidates.item_row, -scores, users))
    order = order[keep[order]]
    counts = np.bincount(users[order], minlength=len(candidates))
    first = np.cumsum(counts) - counts
    place = np.arange(len(order)) - np.repeat(first, counts)
    order, place = order[place < k], place[place < k]
    return _filled(candidates, scores, order, (users[order], place), k)


def _require_scores(candidates: Candidates, scores: Floats, k: int) -> None:
    if k < 1:
        raise BadInput(f"A list must have at least one place; got k={k}.")
    if scores.shape != candidates.item_row.shape:
        raise BadInput(
            f"There must be one score for each of {len(candidates.item_row)} candidates; "
            f"got {scores.shape}."
        )
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise BadInput(f"The score of candidate {place} is {scores[place]}, not a finite number.")


def _kept(
    candidates: Candidates,
    users: Ints,
    excluded: Sequence[Ints] | None,
    filters: Sequence[Filter],
) -> Bools:
    keep = np.ones(len(users), dtype=np.bool_)
    for allowed in filters:
        keep &= allowed(candidates)
    if excluded is None:
        return keep
    if len(excluded) != len(candidates):
        raise BadInput(f"Exclusions are of {len(excluded)} users; expected {len(candidates)}.")
    sizes = [len(rows) for rows in excluded]
    rows = np.concatenate([np.zeros(0, np.int64), *excluded])
    span = 1 + max(int(rows.max(initial=0)), int(candidates.item_row.max(initial=0)))
    barred = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes) * span + rows
    return keep & ~np.isin(users * span + candidates.item_row, barred)


def _filled(
    candidates: Candidates, scores: Floats, order: Ints, target: tuple[Ints, Ints], k: int
) -> Lists:
    shape = (len(candidates), k)
    rows, source = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    best = np.full(shape, np.nan, np.float32)
    rows[target] = candidates.item_row[order]
    best[target] = scores[order]
    source[target] = main_source(candidates)[order]
    return Lists(rows, best, source, candidates.sources)


def seen_rows(user_rows: pa.Table, items: Vocabulary) -> list[Ints]:
    """Per user, the item rows that the user is known to have bought.

    Read from ``seen_item_id`` where the rows have it, else from the history, which may have
    forgotten the oldest items.
    """
    name = SEEN if SEEN in user_rows.column_names else HISTORY
    ids, offsets = list_column(user_rows, name)
    rows = items.rows(ids)
    parts = np.split(rows, offsets[1:-1]) if len(offsets) > 1 else []
    return [part[part > 0] for part in parts]
