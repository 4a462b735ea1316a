"""Finding the candidates of requests; a source that fails or would come too late names none.

B requests, N candidates of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import Candidates, TopK, merge
from feature_repo.contract.columns import AnyRows
from retrieval.index.item_index import merged
from retrieval.index.live import Fresh
from retrieval.retriever import Retriever
from retrieval.sources import AnnSource, UserBatch
from retrieval.sources.base import empty
from serving.stages import USER_TOWER, Run

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Candidates of B requests, and what they were found by."""

    users: UserBatch
    candidates: Candidates

    def of(self, user: int) -> Found:
        """One request's."""
        alone = self.users.part(user, user + 1)
        return Found(alone, self.candidates.take(np.array([user])))


def find(
    retriever: Retriever,
    user_rows: AnyRows,
    now_s: Ints,
    excluded: Sequence[Ints],
    run: Run,
    fresh: Fresh | None = None,
) -> Found:
    """Distinct candidates of B requests from all sources.

    Args:
        retriever: the release's.
        user_rows: B rows of user features.
        now_s: [B] epoch seconds.
        excluded: per request, item rows that must not become candidates.
        run: the pass that this is part of.
        fresh: items that the retriever's index lacks.
    """
    out = list(excluded) if any(len(rows) for rows in excluded) else None
    batch = partial(retriever.batch, user_rows, now_s, out)
    users = run.attempt(USER_TOWER, batch, partial(batch, vectors=False))
    lists: dict[str, TopK] = {}
    for source in retriever.sources:
        k = retriever.quotas[source.name]
        nothing = partial(empty, len(users), k)
        lists[source.name] = run.attempt(source.name, partial(source.top, users, k), nothing)
        if fresh is not None and isinstance(source, AnnSource) and users.vectors is not None:
            lists[source.name] = _with_fresh(lists[source.name], users.vectors, fresh)
    return Found(users, merge(lists, out))


def _with_fresh(top: TopK, vectors_BV: Floats, fresh: Fresh) -> TopK:
    if not len(fresh.rows):
        return top
    k = top.item_row.shape[1]
    rows, scores = merged((top.item_row, top.score), fresh.top(vectors_BV, k, None), k)
    return TopK(rows, np.where(rows > 0, scores, np.float32(np.nan)))


def _offsets(sizes: npt.ArrayLike) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def restrict(candidates: Candidates, only: Sequence[Ints | None]) -> Candidates:
    """Requests that say which items their lists may hold have all of these as candidates.

    Args:
        candidates: of B requests.
        only: per request, rising item rows; None: what was found.
    """
    if all(rows is None for rows in only):
        return candidates
    parts = [_restricted(candidates, user, rows) for user, rows in enumerate(only)]
    return Candidates(
        candidates.sources,
        _offsets([len(rows) for rows, _, _ in parts]),
        np.concatenate([rows for rows, _, _ in parts]),
        np.concatenate([score for _, score, _ in parts]),
        np.concatenate([rank for _, _, rank in parts]),
    )


def _restricted(
    candidates: Candidates, user: int, only: Ints | None
) -> tuple[Ints, Floats, Floats]:
    part = candidates.slice_of(user)
    rows, score, rank = candidates.item_row[part], candidates.score[part], candidates.rank[part]
    if only is None:
        return rows, score, rank
    own_score = np.full((len(only), len(candidates.sources)), np.nan, np.float32)
    own_rank = own_score.copy()
    _, mine, theirs = np.intersect1d(only, rows, assume_unique=True, return_indices=True)
    own_score[mine], own_rank[mine] = score[theirs], rank[theirs]
    return only, own_score, own_rank
