"""Columns of Arrow tables as single arrays, without copies where there is one chunk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.errors import BadInput


def column_of(table: pa.Table, name: str) -> pa.Array:
    """One column as one array.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in table.column_names:
        raise BadInput(f"The rows lack the column {name!r}; they have {table.column_names}.")
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def taken(
    offsets: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of what some of B owners have, one owner after another, and their own offsets.

    Args:
        offsets: [B+1] owner b has the places ``[offsets[b], offsets[b+1])``.
        owners: [C] which of them, in any order.
    """
    lengths = np.diff(offsets)[owners]
    own = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    starts = np.repeat(offsets[:-1][owners] - own[:-1], lengths)
    return starts + np.arange(own[-1], dtype=np.int64), own


def list_column(table: pa.Table, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The flat values and the [B+1] offsets of a list column; a null list is empty.

    Raises:
        BadInput: there is no such column, or it holds no lists.
    """
    array = column_of(table, name)
    if pa.types.is_null(array.type):
        return pa.array([], type=pa.int64()), np.zeros(len(array) + 1, dtype=np.int64)
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        raise BadInput(f"Column {name!r} holds {array.type}; expected lists.")
    lengths = np.asarray(array.value_lengths().fill_null(0), dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return array.flatten(), offsets
