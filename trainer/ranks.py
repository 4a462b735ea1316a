"""Judging vectors by the ranks of what users bought later, among all items.

A metric of a ranking needs no ranking, only where the relevant items stand in it: as many items
as score higher. B users, R item rows, T relevant items of all users, V width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.columns import list_column
from feature_repo.contract.encoding import Bag
from feature_repo.contract.vocabulary import Vocabulary
from trainer.sets import SEEN, TARGET

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BLOCK = 1024
"""Users whose scores are in memory at once."""
NEVER = np.iinfo(np.int64).max
"""Rank of an item that has no row."""


@dataclass(frozen=True)
class Later:
    """What B users bought after the cut-off, and all that they bought before it."""

    relevant: Bag
    """[T] item rows; 0 for an item that has none."""
    is_new: Bools
    """[T] whether the user had not bought it before."""
    known: Bag
    """Rows of what each user bought before, without those of row 0."""

    @staticmethod
    def of(judged: pa.Table, items: Vocabulary) -> Later:
        """Read user rows with ``target_item_id``."""
        later_ids, later = list_column(judged, TARGET)
        name = SEEN if SEEN in judged.column_names else "history_item_id"
        before_ids, before = list_column(judged, name)
        ids = pa.concat_arrays([later_ids, before_ids.cast(later_ids.type)])
        code = np.asarray(ids.dictionary_encode().indices).astype(np.int64)
        owners = np.concatenate([_owners(later), _owners(before)])
        pairs = owners * (code.max(initial=0) + 1) + code
        is_new = ~np.isin(pairs[: len(later_ids)], pairs[len(later_ids) :])
        rows = items.rows(before_ids)
        kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows > 0)])[before]
        return Later(Bag(items.rows(later_ids), later), is_new, Bag(rows[rows > 0], kept))


def _owners(offsets: Ints) -> Ints:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def ranks(users_BV: Floats, items_RV: Floats, later: Later) -> tuple[Ints, Ints]:
    """[T] ranks, from 0, among all items and among those that the user had not bought.

    Row 0 of the items takes no part. Of items that score alike, the relevant one is last, so
    that a model which knows nothing is not given the benefit of the doubt. The second rank of an
    item that the user had bought means nothing.
    """
    every = np.full(len(later.relevant.values), NEVER)
    fresh = every.copy()
    items = torch.from_numpy(items_RV[1:]).T
    for start in range(0, len(users_BV), BLOCK):
        stop = min(start + BLOCK, len(users_BV))
        scores = (torch.from_numpy(users_BV[start:stop]) @ items).numpy()
        for user in range(start, stop):
            _rank(scores[user - start], later, user, every, fresh)
    return every, fresh


def _rank(scores: Floats, later: Later, user: int, every: Ints, fresh: Ints) -> None:
    """Write the ranks of one user's relevant items; ``scores`` are those of rows from 1 on."""
    start, stop = later.relevant.offsets[user : user + 2]
    known = later.known.values[slice(*later.known.offsets[user : user + 2])] - 1
    for place in range(start, stop):
        row = later.relevant.values[place]
        if row == 0:
            continue
        own = scores[row - 1]
        every[place] = np.count_nonzero(scores >= own) - 1
        fresh[place] = every[place] - np.count_nonzero(scores[known] >= own)


def recall_at_k(rank: Ints, offsets: Ints, k: int) -> Doubles:
    """[B] share of each user's relevant items of a rank below ``k``; NaN for users without any."""
    return _sums(rank < k, offsets) / _positive(np.diff(offsets))


def ndcg_at_k(rank: Ints, offsets: Ints, k: int) -> Doubles:
    """[B] binary NDCG of the first ``k``: gains 1 / log2(2 + rank); NaN for users without any.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002).
    """
    gains = np.where(rank < k, 1.0 / np.log2(2.0 + np.minimum(rank, k)), 0.0)
    ideal = np.cumsum([0.0, *(1.0 / np.log2(np.arange(2, k + 2)))])
    return _sums(gains, offsets) / _positive(ideal[np.minimum(np.diff(offsets), k)])


def _sums(values: npt.NDArray[np.generic], offsets: Ints) -> Doubles:
    found: Doubles = np.bincount(_owners(offsets), values, len(offsets) - 1).astype(np.float64)
    return found


def _positive(values: npt.NDArray[np.generic]) -> Doubles:
    return np.where(values.astype(np.float64) > 0, values, np.nan).astype(np.float64)


def judge_vectors(
    users_BV: Floats,
    items_RV: Floats,
    judged: pa.Table,
    items: Vocabulary,
    lengths: Sequence[int] = (20, 200),
) -> dict[str, float]:
    """Mean recall over all items, and recall and NDCG over items new to the user.

    Users count who bought something, or something new. An item without a row is never found.

    Args:
        users_BV: vectors of the judged users.
        items_RV: vectors of the items by row.
        judged: the B user rows with ``target_item_id``, what each bought later.
        items: the rows of items.
        lengths: of the rankings; recall over all items is given at the last.
    """
    later = Later.of(judged, items)
    every, fresh = ranks(users_BV, items_RV, later)
    offsets = later.relevant.offsets
    new = np.concatenate([np.zeros(1, np.int64), np.cumsum(later.is_new)])[offsets]
    fresh = fresh[later.is_new]
    found = {f"recall_all_{lengths[-1]}": recall_at_k(every, offsets, lengths[-1])}
    for k in lengths:
        found[f"recall_new_{k}"] = recall_at_k(fresh, new, k)
        found[f"ndcg_new_{k}"] = ndcg_at_k(fresh, new, k)
    return {name: float(np.nanmean(values)) for name, values in found.items()}
