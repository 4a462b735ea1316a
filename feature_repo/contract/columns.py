"""Columns of Arrow tables as single arrays, without copies where there is one chunk."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Later:
    """A table that is made when somebody asks for it."""

    column_names: Sequence[str]
    num_rows: int
    make: Callable[[], pa.Table]


class Rows:
    """A table whose columns become arrays once, however many models read them."""

    def __init__(self, table: pa.Table | Later, made: Mapping[Hashable, Any] | None = None) -> None:
        """Read a table.

        Args:
            table: the rows.
            made: what is at hand of what ``once`` makes, by its key.
        """
        self._table = table
        self.column_names = frozenset(table.column_names)
        self._made: dict[Hashable, Any] = dict(made or {})

    @property
    def table(self) -> pa.Table:
        """The rows as an Arrow table."""
        if isinstance(self._table, Later):
            self._table = self._table.make()
        return self._table

    @staticmethod
    def of(rows: AnyRows) -> Rows:
        """The rows, which keep their arrays from here on."""
        return rows if isinstance(rows, Rows) else Rows(rows)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """Some of the rows, in the order of ``index``."""
        return Rows(self.table.take(pa.array(index)))

    def slice(self, start: int, length: int) -> Rows:
        """The rows from ``start`` on."""
        return Rows(self.table.slice(start, length))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found


AnyRows: TypeAlias = pa.Table | Rows


def once(rows: AnyRows, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` returns, kept with the rows if they keep it."""
    return rows.once(key, make) if isinstance(rows, Rows) else make()


def column_of(rows: AnyRows, name: str) -> pa.Array:
    """One column as one array.

    Raises:
        BadInput: there is none of that name.
    """
    if isinstance(rows, Rows):
        return rows.once(("column", name), lambda: column_of(rows.table, name))
    if name not in rows.column_names:
        raise BadInput(f"The rows lack the column {name!r}; they have {rows.column_names}.")
    column = rows.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def texts_of(rows: AnyRows, name: str) -> list[str | None]:
    """The values of one column as text; None where missing.

    Raises:
        BadInput: there is no such column.
    """

    def read() -> list[str | None]:
        found: list[str | None] = column_of(rows, name).cast(pa.string()).to_pylist()
        return found

    return once(rows, ("texts", name), read)


def filled(rows: AnyRows, name: str) -> npt.NDArray[np.bool_]:
    """[B] whether a column has a value that is no empty list.

    Raises:
        BadInput: there is no such column.
    """

    def read() -> npt.NDArray[np.bool_]:
        column = column_of(rows, name)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return np.asarray(np.diff(list_column(rows, name)[1]) > 0)
        return np.asarray(column.is_valid(), dtype=np.bool_)

    return once(rows, ("filled", name), read)


def writable(values: npt.ArrayLike, dtype: Any) -> npt.NDArray[Any]:
    """The values as the one kind of array that loops are compiled for: whole and not read-only."""
    return np.require(values, dtype, ["C", "W"])


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


def list_column(rows: AnyRows, name: str) -> tuple[Any, npt.NDArray[np.int64]]:
    """The flat values, an Arrow or numpy array, and the [B+1] offsets of a list column.

    A null list is empty.

    Raises:
        BadInput: there is no such column, or it holds no lists.
    """
    if isinstance(rows, Rows):
        return rows.once(("list", name), lambda: list_column(rows.table, name))
    array = column_of(rows, name)
    if pa.types.is_null(array.type):
        return pa.array([], type=pa.int64()), np.zeros(len(array) + 1, dtype=np.int64)
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        raise BadInput(f"Column {name!r} holds {array.type}; expected lists.")
    lengths = np.asarray(array.value_lengths().fill_null(0), dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return array.flatten(), offsets
