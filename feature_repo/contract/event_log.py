"""The files of a feedback log: JSON lines, cut into segments that never change once they are cut.

New lines go to the end of ``<shop>.jsonl``. ``rotate`` makes it the segment ``<shop>.000001.jsonl``
and the like, whereupon a new file is begun. Who writes or cuts holds the file's lock, and sees
to it that the file still has its name, so that no line comes into a segment after its cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import fsync

Line = dict[str, Any]
"""One event as a JSON object of the log."""


def segment_path(path: Path, number: int) -> Path:
    """Where a segment lies, once it is cut; ``path`` is the log's."""
    return path.with_name(f"{path.stem}.{number:06d}{path.suffix}")


def segment_numbers(path: Path) -> list[int]:
    """The segments of a log, rising."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{6,}}){re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    matches = (name.fullmatch(found) for found in os.listdir(path.parent))
    return sorted(int(match[1]) for match in matches if match is not None)


def log_files(path: Path) -> list[Path]:
    """All files of a log, oldest first."""
    files = [segment_path(path, number) for number in segment_numbers(path)]
    return [*files, path] if path.exists() else files


def log_id(path: Path) -> str:
    """The name of this log among those of other machines; made up when it is first asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.stem}.id").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found = file.read().strip()
        if not found:
            found = uuid.uuid4().hex[:12]
            file.write(found)
            file.flush()
            os.fsync(file.fileno())
    return found


@contextlib.contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[FileIO]:
    """The file that lines are appended to now, held against other writers, or with ``LOCK_SH``
    against writers alone."""
    while True:
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, kind)
            if _has_name(file, path):
                yield file
                return


def _has_name(file: FileIO, path: Path) -> bool:
    """Whether a file is still the one of that name, and was not cut off meanwhile."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def rotate(path: Path) -> int | None:
    """Cut a segment off, unless there is no line to cut off; return its number."""
    if not path.exists():
        return None
    with locked(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        data = file.read(size)
        whole = data.rfind(b"\n") + 1
        if not whole:
            return None
        if whole < size:
            file.truncate(whole)  # a crash left it half-written, so that nobody was told of it
        os.fsync(file.fileno())
        number = max(segment_numbers(path), default=0) + 1
        os.rename(path, segment_path(path, number))
        fsync(path.parent)
    return number


def objects_of(lines: Iterable[bytes]) -> Iterator[Line]:
    """The objects of lines of JSON; what is none, such as half a line, is passed over."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def events_of(data: bytes) -> Iterator[Line]:
    """The events of whole lines; lines that no server wrote are passed over."""
    found = objects_of(data.splitlines())
    return (event for event in found if isinstance(event.get("event_id"), str))


class LogReader:
    """Reads a log from a place on, over cuts, without missing or repeating a line."""

    def __init__(self, path: Path, segment: int = 0, offset: int = 0) -> None:
        """Read nothing yet.

        Args:
            path: of the log.
            segment: to begin with; before the first there is, that one.
            offset: bytes of it that are read already.
        """
        self.path, self.segment, self.offset = path, segment, offset

    def read(self, most_bytes: int = 1 << 20) -> bytes:
        """The next whole lines, of one segment; empty at the end. Advances."""
        while True:
            numbers = segment_numbers(self.path)
            first, new = (numbers[0], numbers[-1] + 1) if numbers else (1, 1)
            if not first <= self.segment <= new:  # what is older was removed
                self.segment, self.offset = min(max(self.segment, first), new), 0
            if self.segment in numbers:
                data = _lines(segment_path(self.path, self.segment), self.offset, most_bytes)
                if data:
                    self.offset += len(data)
                    return data
                self.segment, self.offset = self.segment + 1, 0
                continue
            return self._newest(most_bytes)

    def _newest(self, most_bytes: int) -> bytes:
        """Of the file that is still written to; nothing while others write."""
        if not self.path.exists():
            return b""
        with locked(self.path, fcntl.LOCK_SH) as file:
            if self.segment in segment_numbers(self.path):
                return b""  # cut meanwhile: the next call reads the segment
            # Only synced lines are seen: who writes them holds the lock until they are.
            if self.offset > os.fstat(file.fileno()).st_size:
                self.offset = 0  # somebody moved the file away
            file.seek(self.offset)
            data = _whole(file.read(most_bytes), file)
        self.offset += len(data)
        return data


def _lines(path: Path, offset: int, most_bytes: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return _whole(file.read(most_bytes), file)


def _whole(data: bytes, file: FileIO) -> bytes:
    """Lines that are whole; a longer one than was read is read to its end."""
    while data and b"\n" not in data:
        more = file.read(1 << 16)
        if not more:
            return b""
        data += more
    return data[: data.rfind(b"\n") + 1]
