"""Fitting the sources that go from bought items to their neighbours.

Shapes: U users, R rows of the item vocabulary, M neighbours an item. A fitted table is
``neighbours`` [R, M] int32 rows (0 pads) and ``weights`` [R, M] float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from feature_repo.contract.errors import BadInput
from retrieval.sources import Transform, transformed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Table = tuple[npt.NDArray[np.int32], Floats]


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


def fit_ease(
    purchases: Purchases, transform: Transform, num_items: int, l2: float, kept: int
) -> Table:
    """EASE: the linear item-to-item model with a zero diagonal, in closed form.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019). Only the ``num_items``
    most bought items take part; of each row the ``kept`` weights of largest absolute value stay
    (negative ones matter: positive ones alone rank much worse).

    Raises:
        BadInput: the system cannot be solved; raise ``l2``.
    """
    buyers = purchases.buyers()
    rows = np.sort(np.argsort(-buyers, kind="stable")[: min(num_items, int((buyers > 0).sum()))])
    matrix = purchases.matrix(transform)[:, rows]
    gram = np.asarray((matrix.T @ matrix).toarray(order="F"), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += l2
    inverse = _inverse(gram)
    weights: Floats = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return _scattered(rows, _largest(weights, kept), purchases.num_rows)


def _inverse(gram: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, which is overwritten."""
    factor, failed = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if failed == 0:
        inverse, failed = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise BadInput("EASE's matrix is not positive definite; raise sources.ease.l2.")
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T, dtype=np.float32)


def _largest(weights: Floats, kept: int) -> Table:
    """[Q, M] columns and values of each row's ``kept`` largest absolute weights."""
    kept = min(kept, weights.shape[1])
    columns = np.empty((len(weights), kept), dtype=np.int32)
    for row, values in enumerate(np.abs(weights)):
        columns[row] = np.argpartition(-values, kept - 1)[:kept]
    return columns, np.take_along_axis(weights, columns, axis=1)


def _scattered(rows: Ints, table: Table, num_rows: int) -> Table:
    """A table over some items, as one over all rows of the vocabulary."""
    columns, values = table
    neighbours = np.zeros((num_rows, columns.shape[1]), dtype=np.int32)
    weights = np.zeros((num_rows, columns.shape[1]), dtype=np.float32)
    neighbours[rows] = np.where(values != 0, rows[columns], 0)
    weights[rows] = values
    return neighbours, weights


def fit_knn(
    purchases: Purchases, transform: Transform, shrink: float, kept: int, block: int = 1024
) -> Table:
    """Item-kNN: ``<a, b> / (|a| |b| + shrink)`` over the users, the ``kept`` nearest of each item.

    Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms" (2001).
    """
    matrix = purchases.matrix(transform)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0))).ravel().astype(np.float32)
    by_item = matrix.T.tocsr()
    neighbours = np.zeros((purchases.num_rows, kept), dtype=np.int32)
    weights = np.zeros((purchases.num_rows, kept), dtype=np.float32)
    for start in range(0, purchases.num_rows, block):
        products = (by_item[start : start + block] @ matrix).tocsr()
        for row in range(products.shape[0]):
            part = slice(products.indptr[row], products.indptr[row + 1])
            columns, values = products.indices[part], products.data[part]
            values = values / (norms[start + row] * norms[columns] + shrink)
            values[columns == start + row] = 0.0
            best = np.argpartition(-values, kept)[:kept] if len(values) > kept else slice(None)
            found = columns[best]
            neighbours[start + row, : len(found)] = np.where(values[best] > 0, found, 0)
            weights[start + row, : len(found)] = values[best]
    return neighbours, weights


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
