"""Threads that work behind the requests, and the choice of the one worker of many that does."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

LOG_PAUSE_S = 60.0
"""A failure within this time after one that was told is not told."""


class Writer(ABC):
    """Writes now and then what requests put down; its thread begins with the first of it."""

    def __init__(self, name: str, every_s: float) -> None:
        """Start no thread yet.

        Args:
            name: of the thread.
            every_s: time between two writes.
        """
        self._name, self._every_s = name, every_s
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_at = float("-inf")

    @abstractmethod
    def flush(self) -> None:
        """Write what waits."""

    def close(self) -> None:
        """Write what waits, and take no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.flush()

    def _begin(self) -> None:
        """Have what waits written soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.flush()

    def _tell(self, sentence: str) -> None:
        if time.monotonic() - self._told_at >= LOG_PAUSE_S:
            self._told_at = time.monotonic()
            log.error(sentence)


def is_mine(lock: IO[str]) -> bool:
    """Whether this process holds the lock of an open file, or has just taken it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def elected(path: Path, ended: threading.Event, pause_s: float) -> Iterator[bool]:
    """Whether this process works; it waits until no other does, or until the end.

    Args:
        path: of a file that whoever works holds the lock of.
        ended: is set at the end.
        pause_s: between two looks whether the other has ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        while not ended.is_set():
            if is_mine(lock):
                yield True
                return
            ended.wait(pause_s)
        yield False
