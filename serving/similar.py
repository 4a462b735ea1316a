"""The items that are nearest to an item."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval.index.item_index import merged
from retrieval.retriever import Retriever
from retrieval.sources import AnnSource
from serving.catalogue import Filters
from serving.ids import Id
from serving.item_view import ItemView

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ANN = "ann"
"""Name of the source of similar items."""
NOTHING: tuple[Ints, Floats] = np.zeros(0, np.int64), np.zeros(0, np.float32)


def ann_of(retriever: Retriever) -> AnnSource | None:
    """The source that searches item vectors, where the release has one."""
    found = (source for source in retriever.sources if isinstance(source, AnnSource))
    return next(found, None)


def similar_rows(
    retriever: Retriever, view: ItemView, item_id: Id, n: int, filters: Filters
) -> tuple[Ints, Floats]:
    """The nearest items by inner product with the item's own vector, and these products.

    Args:
        retriever: the release's.
        view: the items.
        item_id: of the release, or added since; nothing is near to others.
        n: length of the list.
        filters: what the items must be.
    """
    source = ann_of(retriever)
    row = int(view.vocabulary.rows(pa.array([item_id], view.vocabulary.ids.type))[0])
    if source is None or row == 0:
        return NOTHING
    vector_1V = _vector(source, view, row)
    size, wanted = len(source.index) + len(view.fresh.rows), n + 1
    while True:
        k = min(wanted, len(source.index))
        found = source.index.search(vector_1V, k)
        rows, scores = merged(found, view.fresh.top(vector_1V, wanted, None), wanted)
        fits = (rows[0] > 0) & (rows[0] != row) & view.catalogue.passes(rows[0], filters)
        if fits.sum() >= n or wanted >= size:
            return rows[0][fits][:n], scores[0][fits][:n]
        wanted *= 4


def _vector(source: AnnSource, view: ItemView, row: int) -> Floats:
    """[1, V]"""
    if row < len(source.item_vectors):
        return np.asarray(source.item_vectors[row : row + 1], dtype=np.float32)
    return view.fresh.vectors[np.searchsorted(view.fresh.rows, [row])]
