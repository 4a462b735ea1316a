"""What similar users buy: user-kNN, and for very many users the lists of clusters of users.

Shapes: U users, R rows of the item vocabulary, C clusters, L items of a cluster, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import (
    Floats,
    Ints,
    Transform,
    UserBatch,
    best,
    load_arrays,
    save_arrays,
    spans,
    stacked,
    unit_rows,
)

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SimilarUsersSource:
    """The sum of what the nearest users bought, each by the similarity to the user.

    Sarwar et al., "Analysis of Recommendation Algorithms for E-Commerce" (2000). Users are found
    through the items of the history, so that one whom no training saw has similar users too.
    """

    name: str
    item_offsets: Ints
    """[R + 1] item i's buyers are ``[item_offsets[i], item_offsets[i + 1])``."""
    buyers: Rows
    """[N] users from 0."""
    shares: Floats
    """[N] what the item adds to the similarity with the buyer, for one unit of the history."""
    user_offsets: Ints
    """[U + 1] user u's items are ``[user_offsets[u], user_offsets[u + 1])``."""
    items: Rows
    """[M] item rows."""
    worths: Floats
    """[M] of the decayed counts."""
    neighbours: int
    """Most similar users that are asked."""
    transform: Transform
    half_life_days: float
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {
            "kind": "similar_users",
            "neighbours": self.neighbours,
            "transform": self.transform.value,
            "half_life_days": self.half_life_days,
            "new_only": self.new_only,
        }

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; a user without a history has none."""
        lists = []
        for user, scores in enumerate(self._scores(users)):
            if self.new_only:
                scores[users.known(user)] = 0.0
            kept = np.flatnonzero(scores > 0)
            lists.append(best(kept, scores[kept], k))
        return stacked(lists, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN for what no similar user bought."""
        found = np.full(len(item_row), np.nan, dtype=np.float32)
        for (_, part), scores in zip(spans(offsets), self._scores(users), strict=True):
            given = scores[item_row[part]]
            found[part] = np.where(given > 0, given, np.nan)
        return found

    def _scores(self, users: UserBatch) -> list[npt.NDArray[np.float64]]:
        worth = users.worth(self.transform, self.half_life_days)
        return [
            self.scores(users.histories.item_row[part], worth[part])
            for _, part in spans(users.histories.offsets)
        ]

    def scores(self, history_rows: Ints, worth: Floats) -> npt.NDArray[np.float64]:
        """[R] summed similarity times worth over the nearest users of one history."""
        near, similarity = self.nearest(history_rows, worth)
        entries, counts = _entries(self.user_offsets, near)
        values = np.repeat(similarity, counts) * self.worths[entries]
        scores = np.bincount(self.items[entries], values, len(self.item_offsets) - 1)
        found: npt.NDArray[np.float64] = scores.astype(np.float64, copy=False)
        found[0] = 0.0
        return found

    def nearest(self, history_rows: Ints, worth: Floats) -> tuple[Ints, Floats]:
        """The most similar users, and their cosine up to a factor that is the same for all."""
        entries, counts = _entries(self.item_offsets, history_rows)
        values = np.repeat(worth, counts) * self.shares[entries]
        similarity = np.bincount(self.buyers[entries], values, len(self.user_offsets) - 1)
        users = np.flatnonzero(similarity > 0)
        return best(users, similarity[users], self.neighbours)

    def save(self, folder: Path) -> None:
        """Write both ways through the purchases."""
        save_arrays(folder, **{name: getattr(self, name) for name in _ARRAYS})

    @staticmethod
    def load(folder: Path, name: str, settings: dict[str, Any]) -> SimilarUsersSource:
        """Memory-map a saved source.

        Args:
            folder: where ``save`` wrote.
            name: of the source.
            settings: its ``about``.
        """
        return SimilarUsersSource(
            name,
            **load_arrays(folder, *_ARRAYS),
            neighbours=int(settings["neighbours"]),
            transform=Transform(settings["transform"]),
            half_life_days=float(settings["half_life_days"]),
            new_only=bool(settings["new_only"]),
        )


_ARRAYS = ("item_offsets", "buyers", "shares", "user_offsets", "items", "worths")


def _entries(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Places of all entries of some rows of a compressed sparse matrix, and how many each has."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    before = np.cumsum(counts) - counts
    places = np.arange(counts.sum(), dtype=np.int64) + np.repeat(starts - before, counts)
    return places, counts


@dataclass(frozen=True)
class UserClusterSource:
    """The lists of the clusters that the user is nearest to: what their members buy most.

    For more users than can be searched on request; a user's vector comes from the history alone.
    """

    name: str
    item_factors: Floats
    """[R, D] a user's vector is the sum over the history of worth times factor, of length 1."""
    centroids: Floats
    """[C, D] of length 1."""
    rows: Rows
    """[C, L] items of each cluster, best first; 0 pads."""
    rates: Floats
    """[C, L] share of the members who bought the item."""
    nearest: int
    """Clusters that are asked."""
    transform: Transform
    half_life_days: float
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {
            "kind": "user_clusters",
            "nearest": self.nearest,
            "transform": self.transform.value,
            "half_life_days": self.half_life_days,
            "new_only": self.new_only,
        }

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; a user without a history has none."""
        lists = []
        for user, vector in enumerate(self.vectors(users)):
            rows, scores = self.scores(vector)
            if self.new_only:
                scores[np.isin(rows, users.known(user))] = 0.0
            kept = np.flatnonzero(scores > 0)
            lists.append(best(rows[kept], scores[kept], k))
        return stacked(lists, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN for what is in none of the nearest clusters' lists."""
        found = np.full(len(item_row), np.nan, dtype=np.float32)
        vectors = self.vectors(users)
        for user, part in spans(offsets):
            rows, scores = self.scores(vectors[user])
            place = np.minimum(np.searchsorted(rows, item_row[part]), len(rows) - 1)
            known = (rows[place] == item_row[part]) & (scores[place] > 0)
            found[part] = np.where(known, scores[place], np.nan)
        return found

    def vectors(self, users: UserBatch) -> Floats:
        """[B, D] of length 1; zero without a history."""
        worth = users.worth(self.transform, self.half_life_days)
        found = np.zeros((len(users), self.item_factors.shape[1]), dtype=np.float32)
        for user, part in spans(users.histories.offsets):
            found[user] = worth[part] @ self.item_factors[users.histories.item_row[part]]
        return unit_rows(found)

    def scores(self, vector: Floats) -> tuple[Ints, Floats]:
        """Rising item rows of the nearest clusters, the first of them 0, and their scores."""
        near = self.centroids @ vector
        chosen = np.argsort(-near, kind="stable")[: self.nearest]
        weight = np.maximum(near[chosen], 0.0)
        rows, place = np.unique(np.append(self.rows[chosen].ravel(), 0), return_inverse=True)
        values = np.append((weight[:, None] * self.rates[chosen]).ravel(), 0.0)
        scores = np.bincount(place, values).astype(np.float32)
        scores[0] = 0.0
        return rows.astype(np.int64), scores

    def save(self, folder: Path) -> None:
        """Write factors, centroids and lists."""
        save_arrays(folder, **{name: getattr(self, name) for name in _CLUSTER_ARRAYS})

    @staticmethod
    def load(folder: Path, name: str, settings: dict[str, Any]) -> UserClusterSource:
        """Memory-map a saved source; see ``SimilarUsersSource.load``."""
        return UserClusterSource(
            name,
            **load_arrays(folder, *_CLUSTER_ARRAYS),
            nearest=int(settings["nearest"]),
            transform=Transform(settings["transform"]),
            half_life_days=float(settings["half_life_days"]),
            new_only=bool(settings["new_only"]),
        )


_CLUSTER_ARRAYS = ("item_factors", "centroids", "rows", "rates")
