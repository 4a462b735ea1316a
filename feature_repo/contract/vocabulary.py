"""Raw ids to table rows: memory-mapped sorted 64-bit keys, never a dictionary.

Row 0 means "unknown". A known id keeps its row when the vocabulary grows. Costs 12 bytes an id
for the lookup, and the ids themselves for the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import (
    atomic_folder,
    write_array,
    write_manifest,
)
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, BadInput

KIND = "vocabulary"
PART = 1 << 20
"""Ids that are looked up at once when a vocabulary grows."""
MAX_SPAN, GAPS = 1 << 24, 8
"""Integer ids are looked up by their value where the largest is at most ``MAX_SPAN`` above the
smallest, and one in ``GAPS`` of those between is known."""


def hash_strings(values: pa.Array) -> npt.NDArray[np.uint64]:
    """[N] 64-bit MurmurHash3 keys of strings; null hashes as the empty string."""
    return np.fromiter(
        (mmh3.hash64(value or "", signed=False)[0] for value in values.to_pylist()),
        dtype=np.uint64,
        count=len(values),
    )


@dataclass(frozen=True)
class Vocabulary:
    """The ids that a model has rows for."""

    id_type: IdType
    keys: npt.NDArray[np.uint64]
    """[N] sorted."""
    key_rows: npt.NDArray[np.int32]
    """[N] the row of each key, from 1."""
    ids: pa.Array
    """[N] the id of row ``1 + index``."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_rows(self) -> int:
        """Rows of a table over this vocabulary, row 0 ("unknown") included."""
        return len(self) + 1

    @staticmethod
    def build(ids: Any, id_type: IdType, base: Vocabulary | None = None) -> Vocabulary:
        """Make a vocabulary of the distinct ``ids``; those of ``base`` keep their rows.

        Raises:
            BadInput: a null id, a wrong type, or two strings with one 64-bit key.
        """
        array = _distinct(_typed(ids, id_type))
        if base is not None:
            array = pa.concat_arrays([base.ids, *base.unknown(array)])
        keys = _keys(array, id_type)
        rows = np.arange(1, len(array) + 1, dtype=np.int32)
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys, kind="stable")
            keys, rows = keys[order], rows[order]
            _require_distinct(keys, rows, array)
        return Vocabulary(id_type, keys, rows, array)

    def unknown(self, ids: pa.Array) -> list[pa.Array]:
        """Those of ``ids`` that have no row, in parts."""
        parts = (ids.slice(start, PART) for start in range(0, len(ids), PART))
        return [part.filter(pa.array(self.rows(part) == 0)) for part in parts]

    def rows(self, ids: Any) -> npt.NDArray[np.int64]:
        """[N] the row of each id; 0 for null and for ids that the vocabulary does not know.

        Raises:
            BadInput: the ids cannot be read as this vocabulary's type.
        """
        array = _typed(ids, self.id_type)
        if not len(self) or not len(array):
            return np.zeros(len(array), dtype=np.int64)
        wanted = _keys(array, self.id_type)
        if self._direct is not None:
            # An id before the first one wraps around to a large number.
            place = np.minimum(wanted - self.keys[0], np.uint64(len(self._direct) - 1))
            rows = self._direct[place.view(np.int64)]
        else:
            place = np.minimum(np.searchsorted(self.keys, wanted), len(self) - 1)
            rows = np.where(self.keys[place] == wanted, self.key_rows[place], 0)
        if array.null_count:
            rows = np.where(np.asarray(array.is_valid()), rows, 0)
        found: npt.NDArray[np.int64] = rows.astype(np.int64)
        return found

    @cached_property
    def _direct(self) -> npt.NDArray[np.int32] | None:
        """[last - first + 2] the row of each id from the first to the last, then 0; None where
        ids are strings, or lie too far apart for it."""
        if self.id_type is IdType.STRING:
            return None
        span = int(self.keys[-1]) - int(self.keys[0])
        if span > min(MAX_SPAN, GAPS * len(self)):
            return None
        direct = np.zeros(span + 2, dtype=np.int32)
        direct[self.keys - self.keys[0]] = self.key_rows
        return direct

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The ids of rows; row 0 has none.

        Raises:
            BadInput: a row is 0 or past the end.
        """
        if len(rows) and (rows.min() < 1 or rows.max() > len(self)):
            raise BadInput(f"Rows must be in 1..{len(self)}; got {rows.min()}..{rows.max()}.")
        return self.ids.take(pa.array(rows - 1)).to_pylist()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Write the vocabulary as a folder, atomically."""
        with atomic_folder(folder) as temporary:
            write_array(temporary / "keys.npy", self.keys)
            write_array(temporary / "rows.npy", self.key_rows)
            _write_ids(temporary / "ids.arrow", self.ids)
            write_manifest(temporary, KIND, {"id_type": self.id_type.value, "size": len(self)})

    @staticmethod
    def load(folder: Path, id_type: IdType) -> Vocabulary:
        """Memory-map a saved vocabulary.

        Raises:
            ArtifactError: missing, truncated, or of another id type.
        """
        try:
            keys = np.load(folder / "keys.npy", mmap_mode="r")
            rows = np.load(folder / "rows.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} is not a vocabulary: {error}") from error
        ids = _map_ids(folder / "ids.arrow")
        if ids.type != id_arrow_type(id_type):
            raise ArtifactError(f"{folder} holds ids of type {ids.type}; expected {id_type}.")
        return Vocabulary(id_type, keys, rows, ids)


def id_arrow_type(id_type: IdType) -> pa.DataType:
    """Arrow's type for ids."""
    return pa.int64() if id_type is IdType.INT64 else pa.string()


def _typed(ids: Any, id_type: IdType) -> pa.Array:
    array = ids
    try:
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if not isinstance(array, pa.Array):
            array = pa.array(array)
        return array if array.type == id_arrow_type(id_type) else array.cast(id_arrow_type(id_type))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"These ids cannot be read as {id_type.value}: {error}") from error


def _keys(array: pa.Array, id_type: IdType) -> npt.NDArray[np.uint64]:
    if id_type is IdType.STRING:
        return hash_strings(array)
    filled = array.fill_null(0) if array.null_count else array
    return np.asarray(filled).astype(np.int64, copy=False).view(np.uint64)


def _distinct(array: pa.Array) -> pa.Array:
    """The distinct ids in rising order."""
    if array.null_count:
        raise BadInput("An id is null; every user and item needs an id.")
    if pa.types.is_integer(array.type):
        return _sorted(array)  # a hash table would be several times larger
    array = pc.unique(array)
    return array.take(pc.array_sort_indices(array))


def _sorted(array: pa.Array) -> pa.Array:
    values = np.asarray(array)
    if (values[1:] > values[:-1]).all():
        return array
    values = np.sort(values)
    return pa.array(values[np.concatenate([[True], values[1:] > values[:-1]])])


def _write_ids(path: Path, ids: pa.Array) -> None:
    table = pa.table({"id": ids})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _map_ids(path: Path) -> pa.Array:
    """The ids of an Arrow file, over its own memory."""
    try:
        column = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("id")
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} is not a whole file of ids: {error}") from error
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _require_distinct(
    keys: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32], ids: pa.Array
) -> None:
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        first, second = (ids[int(rows[same[0] + step]) - 1].as_py() for step in (0, 1))
        raise BadInput(f"Ids {first!r} and {second!r} have one 64-bit key; rename one of them.")
