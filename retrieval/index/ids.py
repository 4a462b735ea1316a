"""Ids of rows that were given in the order of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary, hash_strings


def vocabulary_in_order(ids: Any) -> Vocabulary:
    """The vocabulary whose row i + 1 is ``ids[i]``.

    Raises:
        BadInput: an id is null, given twice, or neither a 64-bit integer nor a string.
    """
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
    if array.null_count:
        raise BadInput("An item's id is null; every item needs an id.")
    if pa.types.is_integer(array.type):
        kind, array = IdType.INT64, array.cast(pa.int64())
        keys = np.asarray(array).view(np.uint64)
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        kind, array = IdType.STRING, array.cast(pa.string())
        keys = hash_strings(array)
    else:
        raise BadInput(f"Item ids must be 64-bit integers or strings; got {array.type}.")
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        first, second = (array[int(order[same[0] + step])].as_py() for step in (0, 1))
        if first == second:
            raise BadInput(f"Item {first!r} is given twice; each item has one vector.")
        raise BadInput(f"Items {first!r} and {second!r} have one 64-bit key; rename one of them.")
    return Vocabulary(kind, keys, (order + 1).astype(np.int32), array)
