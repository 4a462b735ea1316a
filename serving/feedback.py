"""Feedback events: checked one by one, and appended to a log that survives a crash.

The log is a file of JSON lines, from which segments are cut (``feature_repo.contract.event_log``).
Every process locks it, reads what others appended, drops events whose id it has met, appends the
rest and syncs, so that an event counts once whichever worker it was sent to, and was on disk before
it was acknowledged. "Once" is among the last million events.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feature_repo.contract.dataset import IdType
from feature_repo.contract.event_log import (
    Line,
    events_of,
    locked,
    log_files,
    segment_numbers,
    segment_path,
)
from serving.answers import Rejected
from serving.feedback_requests import FeedbackEvent
from serving.ids import BadField, check_id
from serving.problems import StorageFailed, printable

log = logging.getLogger(__name__)

MOST_KNOWN = 1_000_000
LONG_LINE = 400
"""Bytes of an event that are reckoned with when a log is opened."""


@dataclass(frozen=True)
class FeedbackReader:
    """Checks events against the shop's types of id."""

    user_id: IdType
    item_id: IdType
    now: Callable[[], datetime]
    """The release's clock."""

    def read(self, events: Sequence[Any]) -> tuple[list[Line], list[Rejected]]:
        """The events as lines of the log, and those that are wrong."""
        lines, rejected = [], []
        for index, value in enumerate(events):
            try:
                lines.append(self._line(value))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                name = printable(str(first["loc"][0])) if first["loc"] else "event"
                rejected.append(Rejected(index, _id_of(value), name, f"{name}: {first['msg']}."))
            except BadField as error:
                rejected.append(Rejected(index, _id_of(value), error.field, str(error)))
        return lines, rejected

    def _line(self, value: Any) -> Line:
        event = FeedbackEvent.model_validate(value)
        check_id(event.user_id, self.user_id, "user_id")
        check_id(event.item_id, self.item_id, "item_id")
        happened = event.event_timestamp or self.now()
        happened = happened.replace(tzinfo=UTC) if happened.tzinfo is None else happened
        try:
            stamp = happened.astimezone(UTC).isoformat()
        except OverflowError:
            raise BadField("event_timestamp", "event_timestamp lies before the year 1.") from None
        return {**event.model_dump(mode="json"), "event_timestamp": stamp}


def _id_of(value: Any) -> str | None:
    found = value.get("event_id") if isinstance(value, dict) else None
    return printable(found) if isinstance(found, str) else None


class FeedbackLog:
    """An append-only file of events, shared by processes; keeps the ids of the last in memory."""

    def __init__(self, path: Path, most_known: int = MOST_KNOWN) -> None:
        """Open nothing yet.

        Args:
            path: of the file.
            most_known: an event counts once among so many.
        """
        self.path = path
        self._lock = threading.Lock()
        self._most_known = most_known
        self._known: dict[str, None] = {}
        self._inode = -1
        self._read_to = 0

    def load(self) -> None:
        """Read the ids of the last events, so that the first ``append`` need not."""
        if log_files(self.path):
            with self._lock, locked(self.path) as file:
                self._catch_up(file)

    def append(self, lines: Sequence[Line], received_at: datetime) -> int:
        """Write the events that are new, synced to disk; return how many.

        Raises:
            StorageFailed: they could not be written, and none of them counts.
        """
        if not lines:
            return 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, locked(self.path) as file:
                self._catch_up(file)
                new: dict[str, Line] = {}
                for line in lines:
                    if line["event_id"] not in self._known:
                        new.setdefault(line["event_id"], line)
                self._write(file, list(new.values()), received_at)
                return len(new)
        except OSError as error:
            raise StorageFailed(
                f"The events could not be written to {self.path} ({error}), and none of them was "
                "taken; send them again."
            ) from error

    def _write(self, file: FileIO, lines: list[Line], received_at: datetime) -> None:
        stamp, start = received_at.isoformat(), self._read_to
        text = "".join(
            json.dumps({**line, "received_at": stamp}, ensure_ascii=False) + "\n" for line in lines
        )
        try:
            write_all(file, text.encode())
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)  # what was not acknowledged shall not look as if it was
            raise
        self._know(line["event_id"] for line in lines)
        self._read_to = start + len(text.encode())

    def _catch_up(self, file: FileIO) -> None:
        """Read what was appended since; cut a line that a crash left half-written."""
        found = os.fstat(file.fileno())
        if found.st_ino != self._inode or found.st_size < self._read_to:
            # At first, and after a segment was cut off or the file was moved away.
            self._read_segments()
            self._inode = found.st_ino
            self._read_to = _line_after(file, found.st_size - self._most_known * LONG_LINE)
        file.seek(self._read_to)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            log.warning("Cut a half-written line from the end of %s.", self.path)
            file.truncate(self._read_to + whole)
        self._know(event["event_id"] for event in events_of(data[:whole]))
        self._read_to += whole

    def _read_segments(self) -> None:
        """Read what was appended to a segment before it was cut off; at first, the last events."""
        room, found = self._most_known * LONG_LINE, []
        for number in reversed(segment_numbers(self.path)):
            segment = segment_path(self.path, number)
            about = segment.stat()
            mine = about.st_ino == self._inode
            begin = self._read_to if mine else max(0, about.st_size - room)
            room -= about.st_size - begin
            found.append((segment, begin))
            if mine or room <= 0:
                break
        for segment, begin in reversed(found):
            with segment.open("rb", buffering=0) as file:
                file.seek(_line_after(file, begin))
                self._know(event["event_id"] for event in events_of(file.read()))

    def _know(self, event_ids: Iterable[str]) -> None:
        for event_id in event_ids:
            self._known.pop(event_id, None)
            self._known[event_id] = None
        for event_id in list(islice(self._known, max(0, len(self._known) - self._most_known))):
            del self._known[event_id]


def _line_after(file: FileIO, place: int) -> int:
    """Where the first line begins that lies wholly after a place of a file."""
    if place <= 0:
        return 0
    file.seek(place - 1)
    begin = place - 1
    while (data := file.read(1 << 16)) and b"\n" not in data:
        begin += len(data)
    return begin + data.find(b"\n") + 1


def write_all(file: FileIO, data: bytes) -> None:
    """Write to the end of an unbuffered file, which may take less than all at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
