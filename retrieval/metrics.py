"""Metrics of retrieval on full rankings: every item competes, none is sampled.

Shapes: B users, K places of a ranking.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import BadInput

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def hits(ranked: Ints, relevant: list[Ints]) -> npt.NDArray[np.bool_]:
    """[B, K] whether each ranked item row is relevant; row 0 pads and is not.

    Raises:
        BadInput: there are not as many rankings as users.
    """
    if len(ranked) != len(relevant):
        raise BadInput(f"Got {len(ranked)} rankings and {len(relevant)} users.")
    found = np.zeros(ranked.shape, dtype=np.bool_)
    for user, rows in enumerate(relevant):
        found[user] = np.isin(ranked[user], rows) & (ranked[user] > 0)
    return found


def recall_at_k(ranked: Ints, relevant: list[Ints], k: int) -> Floats:
    """[B] share of a user's relevant items among the first ``k``; NaN without any relevant."""
    sizes = np.array([len(np.unique(rows)) for rows in relevant], dtype=np.float64)
    found = hits(ranked[:, :k], relevant).sum(axis=1)
    return np.where(sizes > 0, found / np.maximum(sizes, 1), np.nan)


def ndcg_at_k(ranked: Ints, relevant: list[Ints], k: int) -> Floats:
    """[B] binary NDCG of the first ``k``: gains 1 / log2(1 + place); NaN without any relevant.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002).
    """
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    found = hits(ranked[:, :k], relevant)
    gained = (found * gains[: found.shape[1]]).sum(axis=1)
    sizes = np.array([len(np.unique(rows)) for rows in relevant], dtype=np.int64)
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(sizes, k)]
    return np.where(ideal > 0, gained / np.where(ideal > 0, ideal, 1.0), np.nan)
