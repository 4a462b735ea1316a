"""Fitting the sources of similar users: who bought what, or the lists of clusters of users.

Shapes: U users, R rows of the item vocabulary, C clusters, L items of a cluster, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval.sources.base import Source, Transform, unit_rows
from retrieval.sources.similar_users import SimilarUsersSource, UserClusterSource
from trainer.neighbours import Purchases
from trainer.source_config import SimilarUsersConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ITERATIONS = 20
"""Of k-means."""
POINTS_PER_CLUSTER = 256
"""Users that k-means learns from, a cluster."""


def fit_similar_users(
    name: str,
    purchases: Purchases,
    config: SimilarUsersConfig,
    half_life_days: float,
    new_only: bool,
    seed: int = 0,
) -> Source:
    """User-kNN; with more than ``config.exact_users`` users, lists of clusters."""
    if purchases.num_users > config.exact_users:
        return _clusters(name, purchases, config, half_life_days, new_only, seed)
    matrix = purchases.matrix(config.transform)
    matrix.sort_indices()
    shares = strongest(shares_of(matrix, config.rare), config.buyers)
    return SimilarUsersSource(
        name,
        shares.indptr.astype(np.int64),
        shares.indices.astype(np.int32),
        shares.data.astype(np.float32),
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data,
        config.neighbours,
        config.transform,
        half_life_days,
        new_only,
    )


def item_weights(matrix: sp.csr_matrix, rare: float) -> Floats:
    """[R] weight of each item in users' similarity: its number of buyers to the power -``rare``."""
    buyers = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return np.asarray(np.maximum(buyers, 1.0) ** -rare, dtype=np.float32)


def shares_of(matrix: sp.csr_matrix, rare: float) -> sp.csr_matrix:
    """[R, U] what each item of a history adds to its cosine with a user, for a worth of one."""
    weights = item_weights(matrix, rare)
    scaled = matrix.multiply(weights[None, :]).tocsr()
    lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(scaled.indptr))
    values = scaled.data * weights[scaled.indices] / np.maximum(lengths[rows], 1e-12)
    shape = matrix.shape[1], matrix.shape[0]
    return sp.csr_matrix((values.astype(np.float32), (scaled.indices, rows)), shape)


def strongest(matrix: sp.csr_matrix, kept: int) -> sp.csr_matrix:
    """The ``kept`` largest entries of each row: bounds what a request reads of popular items."""
    counts = np.diff(matrix.indptr)
    if counts.max(initial=0) <= kept:
        return matrix
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((-matrix.data, rows))
    place = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], counts)
    chosen = np.sort(order[place < kept])
    entries = matrix.data[chosen], (rows[chosen], matrix.indices[chosen])
    return sp.csr_matrix(entries, matrix.shape)


def _clusters(
    name: str,
    purchases: Purchases,
    config: SimilarUsersConfig,
    half_life_days: float,
    new_only: bool,
    seed: int,
) -> UserClusterSource:
    matrix = purchases.matrix(config.transform)
    factors = item_factors(matrix, config.rare, config.dim, seed)
    users = unit_rows(np.asarray(matrix @ factors, dtype=np.float32))
    centroids, cluster = clustered(users, min(config.clusters, len(users)), seed)
    member = members(cluster, len(centroids))
    rows, rates = cluster_lists(purchases.matrix(Transform.BINARY), member, config.cluster_items)
    return UserClusterSource(
        name,
        factors,
        centroids,
        rows,
        rates,
        min(config.nearest, len(centroids)),
        config.transform,
        half_life_days,
        new_only,
    )


def item_factors(matrix: sp.csr_matrix, rare: float, dim: int, seed: int) -> Floats:
    """[R, D] from items to the leading singular vectors of the weighted purchases.

    Halko et al., "Finding structure with randomness" (2011), by scikit-learn.
    """
    from sklearn.decomposition import TruncatedSVD

    weights = item_weights(matrix, rare)
    scaled = matrix.multiply(weights[None, :]).tocsr()
    width = min(dim, min(matrix.shape) - 1)
    found = TruncatedSVD(width, n_iter=4, random_state=seed).fit(scaled).components_.T
    return np.asarray(found * weights[:, None], dtype=np.float32)


def clustered(users: Floats, clusters: int, seed: int) -> tuple[Floats, Ints]:
    """[C, D] centroids of length 1 of users' vectors, and [U] the nearest of each user."""
    import faiss

    means = faiss.Kmeans(
        users.shape[1],
        clusters,
        niter=ITERATIONS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CLUSTER,
    )
    means.train(users)
    _, nearest = means.index.search(users, 1)
    return np.asarray(means.centroids, dtype=np.float32), nearest[:, 0].astype(np.int64)


def members(cluster: Ints, clusters: int) -> sp.csr_matrix:
    """[C, U] ones where a user belongs to a cluster."""
    ones = np.ones(len(cluster), dtype=np.float32)
    return sp.csr_matrix((ones, (cluster, np.arange(len(cluster)))), (clusters, len(cluster)))


def cluster_lists(
    bought: sp.csr_matrix, member: sp.csr_matrix, length: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """[C, L] the items with the most buyers of each cluster, and their share of its members."""
    counts = (member @ bought).tocsr()
    sizes = np.maximum(np.diff(member.indptr), 1)
    rows = np.zeros((len(sizes), length), dtype=np.int32)
    rates = np.zeros((len(sizes), length), dtype=np.float32)
    for place in range(len(sizes)):
        part = slice(counts.indptr[place], counts.indptr[place + 1])
        columns, values = counts.indices[part], counts.data[part]
        order = np.lexsort((columns, -values))[:length]
        rows[place, : len(order)] = columns[order]
        rates[place, : len(order)] = values[order] / sizes[place]
    return rows, rates
