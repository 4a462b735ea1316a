"""Reading the feedback log as it grows: what workers learn from events that any of them took."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from feature_repo.contract.event_log import Line, events_of, segment_numbers, segment_path

log = logging.getLogger(__name__)

MEMORY = 1 << 20
"""Bytes of the log's end that are read at first."""


class FeedbackTail:
    """One process's view of the end of the log; used by one thread.

    It holds no lock that a writer holds, so that who reads never waits for the disk.
    """

    def __init__(self, path: Path, listeners: Sequence[Callable[[Line], None]]) -> None:
        """Read nothing yet.

        Args:
            path: of the log.
            listeners: are called with each new event.
        """
        self._path, self._listeners = path, listeners
        self._inode = -1
        self._read_to = 0
        self._looked = float("-inf")
        self._told = False

    def catch_up(self, pause_s: float = 0.0) -> None:
        """Tell the listeners of what was appended since; all of it was acknowledged or soon is.

        Args:
            pause_s: nothing is done within so many seconds of the last time.
        """
        now = time.monotonic()
        if now - self._looked < pause_s:
            return
        self._looked = now
        try:
            self._read_on(self._path.stat())
        except FileNotFoundError:
            pass  # no event yet
        except OSError as error:
            if not self._told:
                log.warning("%s cannot be read: %s. Lists do not follow it.", self._path, error)
            self._told = True

    def _read_on(self, found: os.stat_result) -> None:
        if (found.st_ino, found.st_size) == (self._inode, self._read_to):
            return
        if found.st_ino != self._inode or found.st_size < self._read_to:
            self._finish_segment()
            self._inode, self._read_to = found.st_ino, 0
        begin = max(self._read_to, found.st_size - MEMORY)
        with self._path.open("rb") as file:
            file.seek(begin)
            data = file.read(found.st_size - begin)
        if begin > self._read_to:
            begin += data.find(b"\n") + 1
            data = data[data.find(b"\n") + 1 :]
        whole = data.rfind(b"\n") + 1
        self._read_to = begin + whole
        self._tell(data[:whole])

    def _finish_segment(self) -> None:
        """Tell of what was appended to the file before it was cut off the log."""
        for number in segment_numbers(self._path)[-2:]:
            segment = segment_path(self._path, number)
            if segment.stat().st_ino == self._inode:
                with segment.open("rb") as file:
                    file.seek(self._read_to)
                    self._tell(file.read())

    def _tell(self, data: bytes) -> None:
        for event in events_of(data):
            for listener in self._listeners:
                listener(event)
