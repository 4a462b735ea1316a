"""The log of changes to an index since it was built: items added, items removed.

A record (``retrieval.index.records``) is a line of JSON and, of added items, their vectors as
float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.index.records import RecordLog

Floats = npt.NDArray[np.float32]
Id = int | str

ADD, REMOVE, OPEN = "add", "remove", "open"


@dataclass(frozen=True)
class Change:
    """Items that were added, with their vectors, or removed."""

    ids: tuple[Id, ...]
    vectors: Floats | None
    """[N, V] of added items; None where they were removed."""


class ChangeLog:
    """One process's view of the log of one index."""

    def __init__(self, path: Path, index: str, dim: int) -> None:
        """Open the log, or begin one.

        Args:
            path: the file.
            index: name of the index that the changes are of.
            dim: width V of vectors.

        Raises:
            ArtifactError: the file is another index's, or damaged before its end.
        """
        self.path, self.dim = path, dim
        self._records = RecordLog(path, {"op": OPEN, "index": index, "dim": dim})

    def close(self) -> None:
        """Release the file."""
        self._records.close()

    def is_behind(self) -> bool:
        """Whether there may be changes that were not read yet."""
        return self._records.is_behind()

    def read(self) -> list[Change]:
        """The changes since the last read, oldest first.

        Raises:
            ArtifactError: the log is damaged before its end.
        """
        return [_change(record, self.dim) for record in self._records.read()]

    def append(self, change: Change) -> None:
        """Write a change; when this returns, it outlives a crash of the machine."""
        op = REMOVE if change.vectors is None else ADD
        body = b"" if change.vectors is None else change.vectors.astype("<f4").tobytes()
        about = {"op": op, "ids": list(change.ids)}
        self._records.append(json.dumps(about).encode() + b"\n" + body)


def _change(record: bytes, dim: int) -> Change:
    line, _, body = record.partition(b"\n")
    about = json.loads(line)
    if about["op"] == REMOVE:
        return Change(tuple(about["ids"]), None)
    vectors = np.frombuffer(body, dtype="<f4").reshape(-1, dim).astype(np.float32)
    return Change(tuple(about["ids"]), vectors)
