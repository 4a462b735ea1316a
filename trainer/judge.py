"""Judging candidates by what users bought later, by full rankings of what is new to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.encoding import Encoder, query_times_s
from feature_repo.contract.state import Histories
from retrieval.metrics import ndcg_at_k, recall_at_k
from retrieval.sources import Source, UserBatch
from trainer.sets import SEEN, TARGET

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

CHUNK = 1024
"""Users whose lists are made at once."""
LENGTHS = (20, 200)
"""Lengths of the judged lists."""


@dataclass(frozen=True)
class Judged:
    """B users at a cut-off, and what each bought after it."""

    users: UserBatch
    relevant: list[Ints]
    """Item rows that are new to the user; row 0 stands for items that nobody bought before."""

    @staticmethod
    def of(rows: pa.Table, encoder: Encoder, vectors: Vectors | None = None) -> Judged:
        """Read user rows with ``target_item_id``; everything bought before is left out.

        Args:
            rows: B users.
            encoder: of their vocabularies.
            vectors: [B, V] of a user tower.
        """
        items = encoder.items
        ids, offsets = list_column(rows, TARGET)
        later = np.split(items.rows(ids), offsets[1:-1])
        ids, offsets = list_column(rows, SEEN if SEEN in rows.column_names else "history_item_id")
        before = np.split(items.rows(ids), offsets[1:-1])
        users = UserBatch(
            histories_of(rows, encoder),
            query_times_s(rows),
            vectors,
            excluded=before,
            user_row=encoder.users.rows(column_of(rows, "user_id")),
            features=rows,
        )
        new = [np.setdiff1d(bought, mine) for bought, mine in zip(later, before, strict=True)]
        return Judged(users, new)


def histories_of(rows: pa.Table, encoder: Encoder) -> Histories:
    """The rows' histories; where they hold ids alone, each counts once and is as of now."""
    if "history_gap_sq" in rows.column_names:
        return Histories.from_table(rows, encoder.items)
    ids, offsets = list_column(rows, "history_item_id")
    ones = np.ones(len(ids), dtype=np.float32)
    times = np.repeat(query_times_s(rows), np.diff(offsets))
    return Histories(
        offsets, encoder.items.rows(ids), ones, ones, times, times, *2 * [np.zeros_like(ones)]
    )


def judge_source(
    source: Source,
    rows: pa.Table,
    encoder: Encoder,
    lengths: tuple[int, ...] = LENGTHS,
    vectors: Vectors | None = None,
) -> dict[str, float]:
    """Mean recall and NDCG at each length, over the users who bought something new.

    Args:
        source: names only items outside of a user's history (``new_only``).
        rows: user rows with ``target_item_id``, what each user bought after.
        encoder: of the vocabularies that ``source`` was fitted with.
        lengths: of the rankings.
        vectors: [B, V] of the users, for sources that read a user tower's.
    """
    found: dict[str, list[Floats]] = {}
    starts = range(0, len(rows), CHUNK)
    for start in tqdm(starts, desc=f"Judging {source.name}", unit="k users", disable=None):
        own = None if vectors is None else vectors[start : start + CHUNK]
        judged = Judged.of(rows.slice(start, CHUNK), encoder, own)
        ranked = source.top(judged.users, max(lengths)).item_row
        for k in lengths:
            found.setdefault(f"recall_new_{k}", []).append(recall_at_k(ranked, judged.relevant, k))
            found.setdefault(f"ndcg_new_{k}", []).append(ndcg_at_k(ranked, judged.relevant, k))
    return {name: float(np.nanmean(np.concatenate(values))) for name, values in found.items()}
