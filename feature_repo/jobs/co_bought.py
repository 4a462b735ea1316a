"""Which items are bought by the same users: each item's nearest, by the cosine of their buyers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from tqdm import tqdm

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def co_bought(
    user: Ints, item: Ints, num_users: int, num_items: int, kept: int, block: int = 2048
) -> tuple[Ints, Floats, Ints]:
    """The ``kept`` nearest other items of each item, nearest first, with weights that sum to one.

    Items i and j weigh ``sum over their common buyers u of 1 / (d_u sqrt(d_i d_j))``, with d the
    number of pairs: two steps on the normalised graph of users and items, as in He et al.,
    "LightGCN" (2020). Memory is bounded by ``block`` rows of the item-to-item matrix.

    Args:
        user: [N] codes from 0 of distinct pairs.
        item: [N] codes from 0.
        num_users: above every user's code.
        num_items: above every item's code.
        kept: most neighbours of an item.
        block: items whose neighbours are found at once.

    Returns:
        codes and weights of the neighbours, flat, and [num_items + 1] their offsets.
    """
    graph = _normalised(user, item, num_users, num_items)
    by_item = graph.T.tocsr()
    codes, weights, lengths = [], [], [np.zeros(1, np.int64)]
    starts = range(0, num_items, block)
    for start in tqdm(starts, desc="co-bought items", unit="block", disable=None, leave=False):
        products = (by_item[start : start + block] @ graph).tocsr()
        for row in range(products.shape[0]):
            part = slice(products.indptr[row], products.indptr[row + 1])
            near, weight = _nearest(products.indices[part], products.data[part], start + row, kept)
            codes.append(near)
            weights.append(weight)
        lengths.append(np.array([len(near) for near in codes[start:]], dtype=np.int64))
    offsets = np.cumsum(np.concatenate(lengths))
    return np.concatenate(codes), np.concatenate(weights), offsets


def _normalised(user: Ints, item: Ints, num_users: int, num_items: int) -> sp.csr_matrix:
    """[U, I] ``1 / sqrt(d_u d_i)`` where the user bought the item."""
    of_user = np.bincount(user, minlength=num_users)[user]
    of_item = np.bincount(item, minlength=num_items)[item]
    values = (1.0 / np.sqrt(of_user * of_item)).astype(np.float32)
    return sp.csr_matrix((values, (user, item)), (num_users, num_items))


def _nearest(
    codes: npt.NDArray[np.int32], weights: Floats, own: int, kept: int
) -> tuple[Ints, Floats]:
    """The largest weights of a row of the matrix, without the item itself, as shares."""
    other = codes != own
    codes, weights = codes[other], weights[other]
    order = np.lexsort((codes, -weights))[:kept]
    total = max(float(weights[order].sum()), 1e-12)
    return codes[order].astype(np.int64), (weights[order] / total).astype(np.float32)
