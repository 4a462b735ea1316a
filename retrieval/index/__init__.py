"""The index over item vectors; its metric is the model's: inner product.

``build_index`` writes one from files of vectors, ``ItemIndex`` searches it, filters, and takes
items in and out while it is searched.
"""

from retrieval.index.allowed import Allowed
from retrieval.index.build import build_index
from retrieval.index.config import IndexConfig, IndexRefused, Kind
from retrieval.index.item_index import ItemIndex

__all__ = ["Allowed", "IndexConfig", "IndexRefused", "ItemIndex", "Kind", "build_index"]
