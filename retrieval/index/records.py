"""A log of records that any number of processes write and read.

Each record is a length, a CRC-32 and that many bytes. A call of ``append`` is one record, on disk
before the call returns. What a killed writer left of a record is cut off by the next one that opens
or writes. A lock on the file keeps writers apart. The first record says what the log is of.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import fsync
from feature_repo.contract.errors import ArtifactError

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")


class RecordLog:
    """One process's view of a log: what it read, and where it goes on."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Open the log, or begin one.

        Args:
            path: the file.
            about: what it is of, as JSON has it.

        Raises:
            ArtifactError: the file is of something else, or damaged before its end.
        """
        self.path = path
        self._offset = 0
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._closing = weakref.finalize(self, os.close, self._file)
        with self._alone():
            self._cut_torn_tail()
            if os.fstat(self._file).st_size == 0:
                self._write(json.dumps(about).encode())
                fsync(path.parent)
            self._require(about)

    def close(self) -> None:
        """Release the file; it is released with the log at the latest."""
        self._closing()

    def is_behind(self) -> bool:
        """Whether there may be records that were not read yet."""
        return os.fstat(self._file).st_size > self._offset

    def read(self) -> list[bytes]:
        """The records since the last read, oldest first; one that is being written is not one yet.

        Raises:
            ArtifactError: the log is damaged before its end.
        """
        with self._lock:
            return list(self._records())

    def append(self, record: bytes) -> None:
        """Write a record; when this returns, it outlives a crash of the machine.

        Raises:
            OSError: it could not be written, and is not part of the log.
        """
        with self._alone():
            self._cut_torn_tail()
            self._write(record)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _write(self, payload: bytes) -> None:
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        start, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(record):
                written += os.write(self._file, record[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise

    def _records(self) -> Iterator[bytes]:
        """Whole records from where the last read ended."""
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, size - self._offset, self._offset)
        place = 0
        while (payload := self._payload(data, place)) is not None:
            place += _HEAD.size + len(payload)
            self._offset += _HEAD.size + len(payload)
            yield payload

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

    def _require(self, about: Mapping[str, Any]) -> None:
        found = json.loads(next(self._records()))
        if found != dict(about):
            raise ArtifactError(
                f"{self.path} is a log of {found}; expected one of {dict(about)}. Each has a file "
                "of its own."
            )
