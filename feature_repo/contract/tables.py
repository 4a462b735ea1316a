"""Exported embedding tables: memory-mapped rows that several processes share.

Numpy, so that neither side of the train/serve line needs the trainer's library to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.encoding import Bag
from feature_repo.contract.errors import ArtifactError, ConfigError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SCALE = ".scale.npy"


class TableForm(Enum):
    """How the rows of an exported table are stored."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    """A whole number in -127..127 a value, and a factor a row: the row's largest over 127."""


@dataclass(frozen=True)
class TableFile:
    """One exported table: ``<name>.npy`` and, for int8, the rows' factors ``<name>.scale.npy``."""

    values: npt.NDArray[Any]
    """[R, D] float32, float16 or int8, memory-mapped."""
    scale: npt.NDArray[np.float32] | None = None
    """[R]"""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.values.shape[1])

    def rows(self, rows: Ints) -> Floats:
        """[N, D] float32 rows."""
        found: Floats = self.values[rows].astype(np.float32)
        if self.scale is not None:
            found *= self.scale[rows][:, None]
        return found

    @staticmethod
    def create(folder: Path, name: str, num_rows: int, dim: int, form: TableForm) -> TableFile:
        """A table of zeros on disk, to be written in parts."""
        dtype = {TableForm.fp32: np.float32, TableForm.fp16: np.float16, TableForm.int8: np.int8}
        shape = (num_rows, dim)
        open_memmap = np.lib.format.open_memmap
        values = open_memmap(folder / f"{name}.npy", "w+", dtype=dtype[form], shape=shape)
        if form is not TableForm.int8:
            return TableFile(values)
        path = folder / f"{name}{SCALE}"
        return TableFile(values, open_memmap(path, "w+", dtype=np.float32, shape=(num_rows,)))

    @staticmethod
    def open(folder: Path, name: str, mode: Literal["r", "r+"] = "r+") -> TableFile:
        """A table on disk, memory-mapped; ``r+`` to write to it."""
        values = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
        scale = None
        if values.dtype == np.int8:
            scale = np.load(folder / f"{name}{SCALE}", mmap_mode=mode, allow_pickle=False)
        if mode == "r":  # plain arrays over the same memory: a memmap is slower to take rows of
            return TableFile(np.asarray(values), None if scale is None else np.asarray(scale))
        return TableFile(values, scale)

    def write(self, start: int, column: int, part: Floats) -> None:
        """Write some columns of the rows from ``start`` on.

        Raises:
            ConfigError: int8, and not all columns: the rows' factors need them all.
        """
        stop = start + len(part)
        if self.scale is None:
            self.values[start:stop, column : column + part.shape[1]] = part
            return
        if part.shape[1] != self.dim:
            raise ConfigError(
                f"int8 needs all {self.dim} columns of a row at once; got {part.shape[1]}. Export "
                "as fp16 or fp32, or shard tables by rows."
            )
        scale = np.abs(part).max(axis=1, initial=0.0) / 127
        self.scale[start:stop] = scale
        factor = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        self.values[start:stop] = np.rint(part * factor[:, None])

    def flush(self) -> None:
        """Write to disk what is still in memory."""
        for array in (self.values, self.scale):
            if isinstance(array, np.memmap):
                array.flush()


@dataclass(frozen=True)
class Tables:
    """Embedding tables by name, and which table each feature reads."""

    tables: Mapping[str, TableFile]
    """Row 0 of each is "unknown"."""
    table_of: Mapping[str, str]
    """Feature -> table."""

    def dim(self, feature: str) -> int:
        """Width of a feature's vectors."""
        return self.tables[self.table_of[feature]].dim

    def pooled(self, feature: str, bag: Bag) -> Floats:
        """[B, D] weighted sum of each bag's rows; zero for an empty bag.

        Raises:
            ArtifactError: a row is past the table's end.
        """
        table = self.tables[self.table_of[feature]]
        if len(bag.values) and int(bag.values.max()) >= len(table):
            raise ArtifactError(
                f"Row {int(bag.values.max())} of feature {feature} is past the end of its "
                f"table of {len(table)} rows; encoder and tables are not of one release."
            )
        rows = table.rows(bag.values)
        if bag.is_single:
            return rows
        if bag.weights is not None:
            rows *= bag.weights[:, None]
        lengths = np.diff(bag.offsets)
        if (lengths == 1).all():
            return rows
        pooled = np.zeros((len(lengths), table.dim), dtype=np.float32)
        filled = lengths > 0
        if filled.any():
            pooled[filled] = np.add.reduceat(rows, bag.offsets[:-1][filled], axis=0)
        return pooled

    @staticmethod
    def load(folder: Path) -> Tables:
        """Memory-map saved tables.

        Raises:
            ArtifactError: a table is missing or truncated.
        """
        table_of = read_json(folder / "tables.json")
        try:
            tables = {
                name: TableFile.open(folder, name, "r") for name in sorted(set(table_of.values()))
            }
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} lacks a whole table: {error}") from error
        return Tables(tables, table_of)
