"""Metrics of recommendation lists: pure numpy, vectorised over users.

B users, K places, R item rows (row 0 pads a list that is short), S bootstrap samples. Every metric
of accuracy returns one value a user, so that means and intervals are taken over users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import BadInput

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Relevant:
    """The items that each of B users should have been shown."""

    offsets: Ints
    """[B+1]; user b owns ``[offsets[b], offsets[b+1])``."""
    item_row: Ints
    """[N] rows, distinct within a user, from 1."""

    @staticmethod
    def of(lists: Sequence[Sequence[int] | Ints]) -> Relevant:
        """Read one sequence of item rows a user; repeated rows count once."""
        distinct = [np.unique(np.asarray(rows, dtype=np.int64)) for rows in lists]
        offsets = np.cumsum([0, *(len(rows) for rows in distinct)], dtype=np.int64)
        return Relevant(offsets, np.concatenate([np.zeros(0, np.int64), *distinct]))

    @property
    def counts(self) -> Ints:
        """[B] relevant items of each user."""
        return np.diff(self.offsets)


def hits(lists_BK: Ints, relevant: Relevant) -> Bools:
    """[B, K] whether the item at each place is relevant.

    Raises:
        BadInput: the users differ, or a list names an item twice.
    """
    if lists_BK.ndim != 2 or len(lists_BK) != len(relevant.counts):
        raise BadInput(
            f"Lists must be [B, K] for the {len(relevant.counts)} users with relevant items; "
            f"got {lists_BK.shape}."
        )
    _require_distinct(lists_BK)
    span = 1 + max(int(lists_BK.max(initial=0)), int(relevant.item_row.max(initial=0)))
    owner = np.repeat(np.arange(len(lists_BK), dtype=np.int64), relevant.counts)
    wanted = owner * span + relevant.item_row
    shown = np.arange(len(lists_BK), dtype=np.int64)[:, None] * span + lists_BK
    return np.isin(shown, wanted) & (lists_BK > 0)


def _require_distinct(lists_BK: Ints) -> None:
    ordered = np.sort(lists_BK, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)
    if twice.any():
        user, place = (int(index[0]) for index in np.nonzero(twice))
        raise BadInput(f"List {user} names item row {ordered[user, place]} twice.")


def _require_relevant(relevant: Relevant) -> None:
    if len(relevant.counts) and relevant.counts.min() < 1:
        user = int(np.flatnonzero(relevant.counts < 1)[0])
        raise BadInput(f"User {user} has no relevant item; leave such users out of the mean.")


def precision_at_k(lists_BK: Ints, relevant: Relevant, k: int) -> Doubles:
    """[B] share of the first ``k`` places that are relevant; an empty place counts as a miss."""
    return np.asarray(hits(lists_BK[:, :k], relevant).sum(axis=1) / k)


def recall_at_k(lists_BK: Ints, relevant: Relevant, k: int) -> Doubles:
    """[B] share of the relevant items that are among the first ``k``."""
    _require_relevant(relevant)
    return np.asarray(hits(lists_BK[:, :k], relevant).sum(axis=1) / relevant.counts)


def hit_rate_at_k(lists_BK: Ints, relevant: Relevant, k: int) -> Doubles:
    """[B] 1 where any of the first ``k`` is relevant, else 0."""
    return np.asarray(hits(lists_BK[:, :k], relevant).any(axis=1), dtype=np.float64)


def mrr_at_k(lists_BK: Ints, relevant: Relevant, k: int) -> Doubles:
    """[B] one over the place (from 1) of the first relevant item; 0 if none is in ``k``."""
    hit = hits(lists_BK[:, :k], relevant)
    return np.asarray(np.where(hit.any(axis=1), 1.0 / (1.0 + hit.argmax(axis=1)), 0.0))


def ndcg_at_k(lists_BK: Ints, relevant: Relevant, k: int) -> Doubles:
    """[B] discounted cumulative gain of the first ``k`` over the best possible (binary gains).

    The discount of place p, from 1, is 1 / log2(p + 1) (Jarvelin and Kekalainen, 2002).
    """
    _require_relevant(relevant)
    return ndcg_of_hits(hits(lists_BK[:, :k], relevant), relevant.counts, k)


def ndcg_of_hits(hits_BK: Bools, num_relevant: Ints, k: int) -> Doubles:
    """[B] as ``ndcg_at_k``, of hits in up to ``k`` places and each user's number of relevant."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(num_relevant, k) - 1]
    return np.asarray(hits_BK @ discounts[: hits_BK.shape[1]] / ideal)


def catalogue_coverage(lists_BK: Ints, catalogue_size: int) -> float:
    """Share of the catalogue's items that stand in at least one list."""
    if catalogue_size < 1:
        raise BadInput(f"The catalogue must hold an item; got {catalogue_size}.")
    return len(np.unique(lists_BK[lists_BK > 0])) / catalogue_size


def attribute_diversity(lists_BK: Ints, attributes_RA: npt.NDArray[np.integer]) -> Doubles:
    """[B] mean distance between the items of a list; NaN with fewer than two.

    The distance of two items is the share of the A attributes in which they differ (intra-list
    distance of Smyth and McClave, 2001). An unknown attribute (code 0) differs from any other.
    """
    codes_BKA = attributes_RA[lists_BK]
    equal = (codes_BKA[:, :, None] == codes_BKA[:, None]) & (codes_BKA[:, :, None] > 0)
    return _mean_of_pairs(1.0 - equal.mean(axis=3), lists_BK)


def vector_diversity(lists_BK: Ints, vectors_RD: npt.NDArray[np.floating]) -> Doubles:
    """[B] mean of 1 - cosine between the items of a list (Ziegler et al., 2005); NaN below two."""
    norms = np.linalg.norm(vectors_RD, axis=1, keepdims=True)
    unit_BKD = (vectors_RD / np.maximum(norms, 1e-12))[lists_BK].astype(np.float64)
    return _mean_of_pairs(1.0 - np.einsum("bkd,bld->bkl", unit_BKD, unit_BKD), lists_BK)


def _mean_of_pairs(distance_BKK: Doubles, lists_BK: Ints) -> Doubles:
    known = lists_BK > 0
    pair = known[:, :, None] & known[:, None] & np.triu(np.ones(distance_BKK.shape[1:], bool), 1)
    count = pair.sum(axis=(1, 2))
    total = np.where(pair, distance_BKK, 0.0).sum(axis=(1, 2))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def novelty(lists_BK: Ints, buyers_R: npt.NDArray[np.integer], num_users: int) -> Doubles:
    """[B] mean self-information of a list's items, -log2(buyers / users), in bits; NaN if empty.

    Zhou et al., 2010. An item without a buyer counts as having one.
    """
    bits_R = -np.log2(np.maximum(buyers_R, 1) / num_users)
    known = lists_BK > 0
    total = np.where(known, bits_R[lists_BK], 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def serendipity_at_k(lists_BK: Ints, relevant: Relevant, expected_BE: Ints, k: int) -> Doubles:
    """[B] share of the first ``k`` places that are relevant and not expected.

    Expected are the items that a primitive recommender names for the same user (Ge,
    Delgado-Battenfeld and Jannach, 2010), such as the most popular and the ones bought most.
    """
    shown = lists_BK[:, :k]
    surprising = ~(shown[:, :, None] == expected_BE[:, None, :]).any(axis=2)
    return np.asarray((hits(shown, relevant) & surprising).sum(axis=1) / k)


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values_B: Doubles, *, seed: int, num_samples: int = 1000, level: float = 0.95
) -> Estimate:
    """Mean over users and its percentile bootstrap interval (Efron, 1979); NaN is left out.

    Users are drawn with replacement. The same seed draws the same users, so that two systems
    judged on the same users can be compared sample by sample.
    """
    kept = values_B[np.isfinite(values_B)]
    if not len(kept):
        raise BadInput("There is no user to take a mean over.")
    means = bootstrap_means(kept, seed=seed, num_samples=num_samples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(kept.mean()), float(low), float(high))


def bootstrap_means(values_B: Doubles, *, seed: int, num_samples: int) -> Doubles:
    """[S] means of the values over users drawn with replacement."""
    random = np.random.default_rng(seed)
    size = len(values_B)
    draws = (random.integers(0, size, size) for _ in range(num_samples))
    return np.array([values_B[draw].mean() for draw in draws])
