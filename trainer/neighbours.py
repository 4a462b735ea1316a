"""Neighbour tables: for each item those that its buyers buy, and how much each counts.

Shapes: U users, R rows of the item vocabulary, M neighbours an item. A fitted table is
``neighbours`` [R, M] int32 rows (0 pads) and ``weights`` [R, M] float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval.sources import Transform, transformed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Table = tuple[npt.NDArray[np.int32], Floats]

BLOCK_PRODUCTS = 1 << 24
"""Products of pairs of items that are in memory at once, about; 200 MB."""


@dataclass(frozen=True)
class Purchases:
    """Who bought what, one entry a user and item, before the cut-off."""

    user: Ints
    """[N] from 0."""
    item_row: Ints
    """[N] from 1."""
    weight: Floats
    """[N] decayed count at the cut-off."""
    num_users: int
    num_rows: int
    """R"""

    def matrix(self, transform: Transform) -> sp.csr_matrix:
        """[U, R] worth of the decayed counts."""
        shape = (self.num_users, self.num_rows)
        return sp.csr_matrix(
            (transformed(self.weight, transform), (self.user, self.item_row)), shape
        )

    def buyers(self) -> Ints:
        """[R] users who bought each item."""
        return np.bincount(self.item_row, minlength=self.num_rows).astype(np.int64)


def sums(matrix: sp.spmatrix, axis: int) -> Floats:
    """Sums of a sparse matrix's rows (axis 1) or columns (axis 0): weighted degrees."""
    return np.asarray(matrix.sum(axis=axis), dtype=np.float32).ravel()


def power(degrees: Floats, exponent: float) -> Floats:
    """``degrees`` to a power; 0 stays 0, so that what nobody bought has no weight."""
    safe = np.where(degrees > 0, degrees, 1.0)
    return np.where(degrees > 0, safe**exponent, 0.0).astype(np.float32)


def normalised(matrix: sp.csr_matrix, user_exponent: float, item_exponent: float) -> sp.csr_matrix:
    """``D_u^-a X D_i^-b``: users and items divided by powers of their degrees, [U, R] float32."""
    by_user = sp.diags(power(sums(matrix, 1), -user_exponent))
    by_item = sp.diags(power(sums(matrix, 0), -item_exponent))
    return sp.csr_matrix(by_user @ matrix @ by_item, dtype=np.float32)


def co_bought(matrix: sp.csr_matrix) -> Iterator[tuple[int, npt.NDArray[np.int32], Floats]]:
    """Each item's row, the other items of its buyers and their products: ``X'X`` by rows.

    Made in blocks of about ``BLOCK_PRODUCTS``, so that ``X'X`` is never in memory as a whole.

    Args:
        matrix: X, [U, R].
    """
    by_item = matrix.T.tocsr()
    sizes = np.diff(matrix.indptr).astype(np.float64)
    costs = np.add.reduceat(np.append(sizes[by_item.indices], 0.0), by_item.indptr[:-1])
    costs[np.diff(by_item.indptr) == 0] = 0.0
    for start, stop in blocks(costs, BLOCK_PRODUCTS):
        products = (by_item[start:stop] @ matrix).tocsr()
        for row in range(start, stop):
            part = slice(*products.indptr[row - start : row - start + 2])
            columns, values = products.indices[part], products.data[part]
            others = columns != row
            yield row, columns[others], values[others]


def blocks(costs: npt.NDArray[np.float64], limit: float) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose costs sum to at most ``limit``, or that hold one alone."""
    ends, start = np.cumsum(costs), 0
    while start < len(costs):
        before = ends[start - 1] if start else 0.0
        stop = max(int(np.searchsorted(ends, before + limit, side="right")), start + 1)
        yield start, stop
        start = stop


def empty_table(num_rows: int, kept: int) -> Table:
    """A table without neighbours."""
    shape = (num_rows, kept)
    return np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32)


def fill(table: Table, row: int, columns: npt.NDArray[np.int32], weights: Floats) -> None:
    """Make the largest positive of ``weights`` the neighbours of an item, as many as there is
    room for."""
    neighbours, kept = table[0], table[0].shape[1]
    positive = np.flatnonzero(weights > 0)
    if len(positive) > kept:
        positive = positive[np.argpartition(-weights[positive], kept - 1)[:kept]]
    neighbours[row, : len(positive)] = columns[positive]
    table[1][row, : len(positive)] = weights[positive]


def fit_knn(
    purchases: Purchases,
    transform: Transform,
    shrink: float,
    kept: int,
    asymmetry: float = 0.5,
    user_exponent: float = 0.0,
) -> Table:
    """Item-kNN: the ``kept`` items b nearest to each item a by a cosine, which may be asymmetric.

    ``<a, b> / (|a|^(2 asymmetry) |b|^(2 (1 - asymmetry)) + shrink)`` over the users, where a user
    counts as the sum of its purchases to the power of ``-2 user_exponent``.

    Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms" (2001); Aiolli,
    "Efficient Top-N Recommendation for Very Large Scale Binary Rated Datasets" (2013).
    """
    matrix = normalised(purchases.matrix(transform), user_exponent, item_exponent=0.0)
    norms = np.sqrt(sums(matrix.multiply(matrix), 0))
    own, other = norms ** (2.0 * asymmetry), norms ** (2.0 - 2.0 * asymmetry)
    table = empty_table(purchases.num_rows, kept)
    for row, columns, products in co_bought(matrix):
        fill(table, row, columns, products / (own[row] * other[columns] + shrink))
    return table


def fit_groups(codes: npt.NDArray[np.integer], popularity: Floats, kept: int) -> Table:
    """Each item's neighbours are the ``kept`` most popular items of its group.

    Summed over a history, that scores an item by the user's weight in its group times its share
    of the group.

    Args:
        codes: [R] group of each item; 0 where it has none.
        popularity: [R] of each item.
        kept: items of a group that take part.
    """
    order = np.lexsort((-popularity, codes))
    order = order[(codes[order] > 0) & (popularity[order] > 0)]
    groups, first, sizes = np.unique(codes[order], return_index=True, return_counts=True)
    totals = np.add.reduceat(popularity[order], first) if len(first) else np.zeros(0)
    top = np.zeros((int(codes.max(initial=0)) + 1, kept), dtype=np.int32)
    share = np.zeros(top.shape, dtype=np.float32)
    for group, start, size, total in zip(groups, first, sizes, totals, strict=True):
        rows = order[start : start + min(size, kept)]
        top[group, : len(rows)] = rows
        share[group, : len(rows)] = popularity[rows] / total
    return top[codes], share[codes]
