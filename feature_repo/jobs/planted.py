"""A made-up shop whose preferences are planted, so that what a model learnt can be checked.

Items lie in C clusters (item i in cluster i mod C) and have a Zipf popularity in their own: the
r-th item of a cluster is drawn with a probability in proportion to (r + 1) ** -ZIPF. Each user
has three clusters as tastes, drawn evenly, of weights WEIGHTS. An event of a user is, with
probability NOISE, an item of a cluster drawn evenly; else one of a taste. So

    P(item | user) = P(item | its cluster) * ((1 - NOISE) * weight of its cluster + NOISE / C).

A share REPEATS of the events takes the item that one of the user's RECENT events drew, which leaves
P(item | user) as it is. Everything of a user's k-th event is a function of (seed, user, k): any
part can be made alone, by any chunking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from feature_repo.contract.randomness import key, uniform

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ZIPF = 1.0
WEIGHTS = (0.6, 0.3, 0.1)
NOISE = 0.1
REPEATS = 0.2
RECENT = 50
ITEMS_PER_CLUSTER = 100
MAX_CLUSTERS = 1_000

_TASTE, _BRANCH, _CLUSTER, _ITEM, _REPEAT, _AGE = range(1, 7)
_EVENTS = 1 << 24
"""Events that a user may have; places of different users do not meet below 2 ** 39 users."""


@dataclass(frozen=True)
class PlantedShop:
    """Users 0..U-1, whose ids are one higher, and items 0..I-1, whose ids are scattered: popular
    items are not the ones of the lowest ids."""

    num_users: int
    num_items: int
    seed: int = 0

    @property
    def num_clusters(self) -> int:
        """Clusters of about ``ITEMS_PER_CLUSTER`` items."""
        return max(1, min(self.num_items // ITEMS_PER_CLUSTER, MAX_CLUSTERS))

    @cached_property
    def _mass(self) -> Floats:
        """[R] summed Zipf weights of the first items of a cluster; the largest has R items."""
        largest = -(-self.num_items // self.num_clusters)
        return np.asarray(np.cumsum(np.arange(1, largest + 1, dtype=np.float64) ** -ZIPF))

    @cached_property
    def _stride(self) -> int:
        """Of the ids of successive items; prime to the number of items."""
        stride = int(self.num_items * 0.618)
        while math.gcd(max(stride, 1), self.num_items) > 1:
            stride += 1
        return max(stride, 1)

    def item_ids(self, items: Ints) -> Ints:
        """[...] public ids, 1..I, of items."""
        return items * self._stride % self.num_items + 1

    def items_of(self, ids: Ints) -> Ints:
        """[...] the items of public ids."""
        return (ids - 1) * pow(self._stride, -1, self.num_items) % self.num_items

    def cluster_sizes(self, clusters: Ints) -> Ints:
        """[...] items of each cluster."""
        return (self.num_items - 1 - clusters) // self.num_clusters + 1

    def tastes(self, users: Ints) -> Ints:
        """[B, 3] the clusters of each user's tastes; two may be the same."""
        places = users[:, None] * len(WEIGHTS) + np.arange(len(WEIGHTS))
        drawn = uniform(key(self.seed, _TASTE), places)
        return (drawn * self.num_clusters).astype(np.int64)

    def items(self, users: Ints, events: Ints) -> Ints:
        """[B, K] the items of users' events.

        Args:
            users: [B]
            events: [B, K] which of the user's events, from 0.
        """
        places = users[:, None] * _EVENTS + events
        repeated = uniform(key(self.seed, _REPEAT), places) < REPEATS
        back = uniform(key(self.seed, _AGE), places) * np.minimum(events, RECENT)
        earlier = np.where(repeated & (events > 0), events - 1 - back.astype(np.int64), events)
        return self._first(users, users[:, None] * _EVENTS + earlier)

    def _first(self, users: Ints, places: Ints) -> Ints:
        """[B, K] items of events that repeat none."""
        branch = uniform(key(self.seed, _BRANCH), places)
        bounds = NOISE + (1.0 - NOISE) * np.cumsum(WEIGHTS)[:-1]
        taste = np.searchsorted(bounds, branch, side="right")
        liked = np.take_along_axis(self.tastes(users), taste, axis=1)
        any_cluster = uniform(key(self.seed, _CLUSTER), places) * self.num_clusters
        cluster = np.where(branch < NOISE, any_cluster.astype(np.int64), liked)
        mass = self._mass[self.cluster_sizes(cluster) - 1]
        rank = np.searchsorted(
            self._mass, uniform(key(self.seed, _ITEM), places) * mass, side="right"
        )
        return np.asarray(cluster + rank * self.num_clusters)

    def probabilities(self, users: Ints, items: Ints) -> Floats:
        """[B, K] the planted probabilities of items ([B, K]) for users ([B])."""
        cluster, rank = items % self.num_clusters, items // self.num_clusters
        in_cluster = (rank + 1.0) ** -ZIPF / self._mass[self.cluster_sizes(cluster) - 1]
        liked = (self.tastes(users)[:, None, :] == cluster[:, :, None]) @ np.array(WEIGHTS)
        return np.asarray(in_cluster * ((1.0 - NOISE) * liked + NOISE / self.num_clusters))

    def best(self, users: Ints, k: int) -> Ints:
        """[B, k] the items of highest probability: what is best without a look at the past.

        They are among the first items of the user's tastes and of as many other clusters as may
        have k items that are better than the rest.
        """
        clusters = self.tastes(users)
        liked = clusters[:, :, None] + np.arange(min(k, len(self._mass))) * self.num_clusters
        others = max(self.num_clusters - len(WEIGHTS), 1)
        any_ranks = min(-(-k // others) + 1, len(self._mass))
        anybody = np.arange(min(any_ranks * self.num_clusters, self.num_items))
        found = np.concatenate(
            [liked.reshape(len(users), -1), np.tile(anybody, (len(users), 1))], axis=1
        )
        inside = (found < self.num_items) & ~_repeated(found)
        scores = np.where(inside, self.probabilities(users, np.where(inside, found, 0)), -1.0)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(found, order, axis=1)


def _repeated(values: Ints) -> npt.NDArray[np.bool_]:
    """[B, K] whether a value stands to the left in its row too."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    same = np.zeros(values.shape, dtype=np.bool_)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = np.empty_like(same)
    np.put_along_axis(found, order, same, axis=1)
    return found
