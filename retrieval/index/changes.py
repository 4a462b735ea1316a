"""The log of changes to an index since it was built: items added, items removed.

A file of records, each a length, a CRC-32 and that many bytes: a line of JSON and, of added items,
their vectors as float32. A call of ``append`` is one record, on disk before the call returns. What
a killed writer left of a record is cut off by the next one that opens or writes. Any number of
processes may write; a lock on the file keeps their records apart. The first record names the index.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import ArtifactError

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Id = int | str

_HEAD = struct.Struct("<II")
ADD, REMOVE, OPEN = "add", "remove", "open"


@dataclass(frozen=True)
class Change:
    """Items that were added, with their vectors, or removed."""

    ids: tuple[Id, ...]
    vectors: Floats | None
    """[N, V] of added items; None where they were removed."""


class ChangeLog:
    """One process's view of the log: what it read, and where it goes on."""

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
        self._offset = 0
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with self._alone():
            self._cut_torn_tail()
            if os.fstat(self._file).st_size == 0:
                self._write({"op": OPEN, "index": index, "dim": dim}, b"")
                _fsync_folder(path.parent)
            self._require(index)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)

    def is_behind(self) -> bool:
        """Whether there may be records that were not read yet."""
        return os.fstat(self._file).st_size > self._offset

    def read(self) -> list[Change]:
        """The changes since the last read, oldest first; one that is being written is not one yet.

        Raises:
            ArtifactError: the log is damaged before its end.
        """
        with self._lock:
            return [_change(about, body, self.dim) for about, body in self._records()]

    def append(self, change: Change) -> None:
        """Write a change; when this returns, it outlives a crash of the machine."""
        op = REMOVE if change.vectors is None else ADD
        body = b"" if change.vectors is None else change.vectors.astype("<f4").tobytes()
        with self._alone():
            self._cut_torn_tail()
            self._write({"op": op, "ids": list(change.ids)}, body)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _write(self, about: dict[str, Any], body: bytes) -> None:
        payload = json.dumps(about).encode() + b"\n" + body
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        written = 0
        while written < len(record):
            written += os.write(self._file, record[written:])
        os.fsync(self._file)

    def _records(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Whole records from where the last read ended."""
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, size - self._offset, self._offset)
        place = 0
        while (payload := self._payload(data, place)) is not None:
            place += _HEAD.size + len(payload)
            self._offset += _HEAD.size + len(payload)
            about, _, body = payload.partition(b"\n")
            yield json.loads(about), body

    def _payload(self, data: bytes, place: int) -> bytes | None:
        """The record at ``place``; None where it is not whole, which only the last may be."""
        if len(data) - place < _HEAD.size:
            return None
        length, expected = _HEAD.unpack_from(data, place)
        payload = data[place + _HEAD.size : place + _HEAD.size + length]
        if len(payload) == length and zlib.crc32(payload) == expected:
            return payload
        if place + _HEAD.size + length < len(data):
            raise ArtifactError(
                f"{self.path} is damaged at byte {self._offset}: a record's checksum does not "
                "match, and others follow. Remove the file and send the changes again."
            )
        return None

    def _cut_torn_tail(self) -> None:
        before = self._offset
        for _ in self._records():
            pass
        whole, self._offset = self._offset, before
        size = os.fstat(self._file).st_size
        if whole < size:
            log.warning(
                "%s: the last %d bytes are of a change that was not finished; cut off.",
                self.path,
                size - whole,
            )
            os.ftruncate(self._file, whole)
            os.fsync(self._file)

    def _require(self, index: str) -> None:
        about, _ = next(self._records())
        found = about.get("op"), about.get("index"), about.get("dim")
        if found != (OPEN, index, self.dim):
            raise ArtifactError(
                f"{self.path} holds changes of index {found[1]!r} of width {found[2]}; expected "
                f"{index!r} of width {self.dim}. Each index has a log of its own."
            )


def _change(about: dict[str, Any], body: bytes, dim: int) -> Change:
    if about["op"] == REMOVE:
        return Change(tuple(about["ids"]), None)
    vectors = np.frombuffer(body, dtype="<f4").reshape(-1, dim).astype(np.float32)
    return Change(tuple(about["ids"]), vectors)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
