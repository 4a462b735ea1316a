"""Fitting EASE, the linear item-to-item model in closed form.

Shapes: Q items that take part, R rows of the item vocabulary, M neighbours an item.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from feature_repo.contract.errors import BadInput
from retrieval.sources import Transform
from trainer.neighbours import Floats, Ints, Purchases, Table, empty_table, normalised, power, sums

TILE = 1024
"""Rows and columns that are copied at once."""


def fit_ease(
    purchases: Purchases,
    transform: Transform,
    num_items: int,
    l2: float,
    kept: int,
    user_exponent: float = 0.0,
    item_exponent: float = 0.0,
) -> Table:
    """EASE: the linear item-to-item model with a zero diagonal, in closed form.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019). Only the ``num_items``
    most bought items take part; of each row the ``kept`` weights of largest absolute value stay
    (negative ones matter: positive ones alone rank much worse).

    With exponents above 0, heavy buyers count less and the weights of much bought items are held
    back more: user u counts ``d_u^(-2 user_exponent)``, and the penalty of item i is
    ``l2 d_i^(2 item_exponent)``, d being sums of purchases.

    Takes ``4 Q^2`` bytes and one inverse: 6.7 GB and 7 to 10 minutes of two cores for 41,000 items.

    Raises:
        BadInput: the system cannot be solved; raise ``l2``.
    """
    buyers = purchases.buyers()
    rows = np.sort(np.argsort(-buyers, kind="stable")[: min(num_items, int((buyers > 0).sum()))])
    matrix = purchases.matrix(transform)[:, rows]
    scale = power(sums(matrix, 0), -item_exponent)
    inverse = _inverse(_gram(normalised(matrix, user_exponent, item_exponent), l2))
    return _scattered(rows, _strongest(inverse, scale, kept), purchases.num_rows)


def _gram(matrix: sp.csr_matrix, l2: float) -> Floats:
    """``X'X + l2``, dense [Q, Q], by blocks of rows."""
    gram = np.empty((matrix.shape[1], matrix.shape[1]), dtype=np.float32, order="F")
    by_item = matrix.T.tocsr()
    for start in range(0, len(gram), TILE):  # as columns: X'X is symmetric
        part = slice(start, start + TILE)
        gram[:, part] = (by_item[part] @ matrix).toarray().T
    gram[np.diag_indices_from(gram)] += l2
    return gram


def _inverse(gram: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, in its memory."""
    factor, failed = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if failed == 0:
        inverse, failed = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise BadInput("EASE's matrix is not positive definite; raise ease.l2.")
    _mirror(inverse)
    return np.asarray(inverse)


def _mirror(matrix: Floats) -> None:
    """Copy the lower triangle over the upper one, tile by tile."""
    for start in range(0, len(matrix), TILE):
        part = slice(start, start + TILE)
        corner = np.tril(matrix[part, part])
        matrix[part, part] = corner + np.tril(corner, -1).T
        matrix[part, start + TILE :] = matrix[start + TILE :, part].T


def _strongest(inverse: Floats, scale: Floats, kept: int) -> Table:
    """[Q, M] of each item the ``kept`` weights of largest absolute value, and whom they go to."""
    kept = min(kept, len(inverse))
    columns, values = empty_table(len(inverse), kept)
    diagonal = np.diag(inverse) * scale
    for row in range(len(inverse)):
        weights = -inverse[:, row] * scale[row] / diagonal
        weights[row] = 0.0
        columns[row] = np.argpartition(-np.abs(weights), kept - 1)[:kept]
        values[row] = weights[columns[row]]
    return columns, values


def _scattered(rows: Ints, table: Table, num_rows: int) -> Table:
    """A table over some items, as one over all rows of the vocabulary."""
    columns, values = table
    neighbours, weights = empty_table(num_rows, columns.shape[1])
    neighbours[rows] = np.where(values != 0, rows[columns], 0)
    weights[rows] = values
    return neighbours, weights
