"""NCF's protocol: one held-out item of each user among 99 others that are given.

He et al., "Neural Collaborative Filtering" (2017). It is a sampled metric: it says less than a
full ranking (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", 2020), and its
figures compare with those of the same 99 items alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import BadInput
from retrieval.sources import Source
from trainer.judge import CHUNK, Judged
from trainer.sets import TARGET

Ints = npt.NDArray[np.int64]
NUM_NEGATIVES = 99
K = 10


def read_negatives(path: Path) -> dict[tuple[int, int], Ints]:
    """(user, held-out item) -> the 99 items that it is ranked with.

    Raises:
        BadInput: a line is malformed, named by its number.
    """
    found = {}
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, start=1):
            head, *items = line.split("\t")
            pair = re.fullmatch(r"\((\d+),(\d+)\)", head)
            if pair is None or len(items) != NUM_NEGATIVES:
                raise BadInput(
                    f"Line {number} of {path}: expected (user,item) and {NUM_NEGATIVES} items; "
                    f"got {line[:40]!r}."
                )
            found[int(pair[1]), int(pair[2])] = np.array(items, dtype=np.int64)
    return found


def drawn_negatives(rows: pa.Table, encoder: Encoder, seed: int) -> dict[tuple[int, int], Ints]:
    """The like for any judged users: one held-out item of each, and items not bought."""
    rng = np.random.default_rng(seed)
    every = np.asarray(encoder.items.ids)
    targets, offsets = list_column(rows, TARGET)
    history, bounds = list_column(rows, "history_item_id")
    users, bought = column_of(rows, "user_id").to_pylist(), np.asarray(targets)
    mine = np.split(np.asarray(history), bounds[1:-1])
    found = {}
    for user, start, stop, before in zip(users, offsets[:-1], offsets[1:], mine, strict=True):
        if stop > start:
            others = np.setdiff1d(every, np.concatenate([before, bought[start:stop]]))
            drawn = rng.choice(others, NUM_NEGATIVES, replace=False)
            found[int(user), int(bought[rng.integers(start, stop)])] = drawn.astype(np.int64)
    return found


def judge_sampled(
    source: Source, rows: pa.Table, encoder: Encoder, negatives: dict[tuple[int, int], Ints]
) -> dict[str, float]:
    """Hit rate and NDCG at 10 of the held-out items, each among its 99; ties count against."""
    chosen = {user: (item, others) for (user, item), others in negatives.items()}
    ranks = []
    for start in range(0, len(rows), CHUNK):
        part = rows.slice(start, CHUNK)
        users = column_of(part, "user_id").to_pylist()
        part = part.filter(pa.array([user in chosen for user in users]))
        if not len(part):
            continue
        users = column_of(part, "user_id").to_pylist()
        lists = [np.concatenate([[chosen[user][0]], chosen[user][1]]) for user in users]
        items = encoder.items.rows(pa.array(np.concatenate(lists)))
        offsets = np.arange(len(users) + 1, dtype=np.int64) * (NUM_NEGATIVES + 1)
        scores = source.score(Judged.of(part, encoder).users, offsets, items)
        scores = np.nan_to_num(scores.reshape(len(users), -1), nan=-np.inf)
        ranks.append((scores[:, 1:] >= scores[:, :1]).sum(axis=1))
    rank = np.concatenate(ranks)
    gains = np.where(rank < K, 1.0 / np.log2(rank + 2.0), 0.0)
    return {"recall": float((rank < K).mean()), "ndcg": float(gains.mean())}
