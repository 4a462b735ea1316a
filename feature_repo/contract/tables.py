"""Exported embedding tables: memory-mapped rows that several processes share.

Numpy, so that neither side of the train/serve line needs the trainer's library to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import read_json, write_array, write_json
from feature_repo.contract.encoding import Bag, TableSpec
from feature_repo.contract.errors import ArtifactError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tables:
    """Embedding tables by name, and which table each feature reads."""

    tables: Mapping[str, npt.NDArray[np.floating]]
    """Table -> [R, D] float32 or float16; row 0 is "unknown"."""
    table_of: Mapping[str, str]
    """Feature -> table."""

    def dim(self, feature: str) -> int:
        """Width of a feature's vectors."""
        return int(self.tables[self.table_of[feature]].shape[1])

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
        rows = table[bag.values].astype(np.float32)
        if bag.weights is not None:
            rows *= bag.weights[:, None]
        lengths = np.diff(bag.offsets)
        if (lengths == 1).all():
            return rows
        pooled = np.zeros((len(lengths), table.shape[1]), dtype=np.float32)
        filled = lengths > 0
        if filled.any():
            pooled[filled] = np.add.reduceat(rows, bag.offsets[:-1][filled], axis=0)
        return pooled

    def save(self, folder: Path, dtype: npt.DTypeLike = np.float32) -> None:
        """Write every table as ``<name>.npy`` and ``tables.json``, atomically each."""
        for name, table in self.tables.items():
            write_array(folder / f"{name}.npy", table.astype(dtype))
        write_json(folder / "tables.json", dict(self.table_of))

    @staticmethod
    def load(folder: Path) -> Tables:
        """Memory-map saved tables.

        Raises:
            ArtifactError: a table is missing or truncated.
        """
        table_of = read_json(folder / "tables.json")
        try:
            tables = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in sorted(set(table_of.values()))
            }
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} lacks a whole table: {error}") from error
        return Tables(tables, table_of)


def feature_tables(specs: tuple[TableSpec, ...]) -> dict[str, str]:
    """Feature -> table, for ``Tables.table_of``."""
    return {feature: spec.name for spec in specs for feature in spec.features}
