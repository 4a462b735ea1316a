"""Which pairs of train validate: random ones, or whole groups of items bought by the same users.

A random part of train lies beside the items that it is most often bought with, and prefers models
that remember such pairs. A test that is later than train asks more often for what a user has
nothing like. Where files have no times to cut validation by, holding back all of a user's items of
one group asks for the same (Roberts et al., "Cross-validation strategies for data with temporal,
spatial, hierarchical, or phylogenetic structure", 2017, call this blocking). A share of the users
is judged so, the others on random items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from feature_repo.contract.randomness import key, uniform

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_PAIRS, _USERS, _GROUPS = 21, 24, 25
ITEMS_A_GROUP = 40
"""On average."""
WIDTH = 64
"""Of the vectors that items are grouped by."""


def held_back(
    user: Ints, item: Ints, share: float, min_items: int, grouped: float, seed: int
) -> Bools:
    """[N] whether a pair validates.

    Args:
        user: [N] ids, of distinct pairs.
        item: [N] ids.
        share: of a user's pairs that validate.
        min_items: users with fewer pairs keep them all.
        grouped: share of the users for whom whole groups of items validate.
        seed: of all that is drawn.
    """
    random = random_pairs(user, share, min_items, seed)
    if grouped == 0:
        return random
    _, item_code = np.unique(item, return_inverse=True)
    groups = item_groups(user, item_code, seed)[item_code]
    whole = whole_groups(user, groups, share, min_items, seed)
    return np.where(uniform(key(seed, _USERS), user) < grouped, whole, random)


def random_pairs(user: Ints, share: float, min_items: int, seed: int) -> Bools:
    """[N] a random ``share`` of each user's pairs, rounded, at least one, where the user has
    ``min_items`` of them; none of other users."""
    order = np.lexsort((uniform(key(seed, _PAIRS), np.arange(len(user))), user))
    first, counts = runs(user[order])
    wanted = np.repeat(_wanted(counts, share, min_items), counts)
    place = np.arange(len(user)) - np.repeat(first, counts)
    chosen = np.zeros(len(user), dtype=np.bool_)
    chosen[order] = place < wanted
    return chosen


def whole_groups(user: Ints, group: Ints, share: float, min_items: int, seed: int) -> Bools:
    """[N] a user's pairs in randomly drawn groups, until they are ``share`` of the user's pairs.

    Groups that hold more than twice that are passed over: of a user of one group nothing
    validates.

    Args:
        user: [N] ids.
        group: [N] the group of each pair's item.
        share: of a user's pairs that validate.
        min_items: users with fewer pairs keep them all.
        seed: of the draw.
    """
    draw = uniform(key(seed, _GROUPS), user * (int(group.max(initial=0)) + 1) + group)
    order = np.lexsort((group, draw, user))
    _, totals = runs(user[order])
    wanted = np.repeat(_wanted(totals, share, min_items), totals)
    first, sizes = runs(group[order], user[order])
    fits = sizes <= 2 * wanted[first]
    taken = np.where(fits, sizes, 0)
    before = np.cumsum(taken) - taken
    starts = np.flatnonzero(np.diff(user[order][first], prepend=-1))
    before -= np.repeat(before[starts], np.diff(starts, append=len(first)))
    chosen = np.zeros(len(user), dtype=np.bool_)
    chosen[order] = np.repeat(fits & (before < wanted[first]), sizes)
    return chosen


def item_groups(user: Ints, item: Ints, seed: int) -> Ints:
    """[I] the group of each item: nearest of the k-means of the items' singular vectors.

    Args:
        user: [N] ids.
        item: [N] codes, from 0 without gaps.
        seed: of the vectors and of the first centres.
    """
    users, user_code = np.unique(user, return_inverse=True)
    num_items = int(item.max()) + 1
    degrees = np.bincount(user_code)[user_code] * np.bincount(item)[item]
    values = (1.0 / np.sqrt(degrees)).astype(np.float32)
    graph = sp.csr_matrix((values, (user_code, item)), (len(users), num_items))
    width = min(WIDTH, *graph.shape)
    _, size, vectors = randomized_svd(graph, width, n_iter=2, random_state=seed)
    unit = normalize((vectors.T * size).astype(np.float32))
    number = max(num_items // ITEMS_A_GROUP, 1)
    found = KMeans(number, init="random", n_init=1, max_iter=10, random_state=seed).fit(unit)
    return np.asarray(found.labels_, dtype=np.int64)


def _wanted(counts: Ints, share: float, min_items: int) -> Ints:
    """Pairs that are held back of users with so many."""
    wanted = np.where(counts >= min_items, np.maximum(np.rint(share * counts), 1), 0)
    return wanted.astype(np.int64)


def runs(*sorted_by: Ints) -> tuple[Ints, Ints]:
    """First place and length of each run of equal values (in all of the arrays)."""
    size = len(sorted_by[0])
    changes = np.zeros(size, dtype=np.bool_)
    changes[:1] = True
    for values in sorted_by:
        changes[1:] |= values[1:] != values[:-1]
    first = np.flatnonzero(changes)
    return first, np.diff(first, append=size)
