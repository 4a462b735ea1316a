"""Which process works on what, told by files on a disk that all of them share.

Nothing here compares the clocks of two machines: the file system sets all times that are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileOpenLock

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.errors import ShoprecError


class LeaseLost(ShoprecError):
    """Another process took over, because this one gave no sign of life for too long."""


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Keep the other processes out, by a file ``<path>.lock`` that only one of them can make.

    NFS from version 3 on makes files atomically. The lock of a process that was killed is broken
    after half a minute.
    """
    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_time(folder: Path) -> float:
    """Now, in seconds, by the clock of the file system that holds ``folder``."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"now")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


@dataclass(frozen=True)
class Lease:
    """This process's hold on something: a file that it touches, and removes to let go."""

    path: Path
    owner: dict[str, Any]

    @staticmethod
    def take(path: Path) -> Lease:
        """Take hold, from whoever had it."""
        owner = {"id": uuid.uuid4().hex, "machine": _machine(), "pid": os.getpid()}
        write_json(path, owner)
        return Lease(path, owner)

    @property
    def is_mine(self) -> bool:
        """Whether nobody else took it."""
        return _read(self.path)[0] == self.owner

    def beat(self) -> None:
        """Give a sign of life.

        Raises:
            LeaseLost: somebody else took it.
        """
        if not self.is_mine:
            raise LeaseLost(f"{self.path} is another process's now.")
        os.utime(self.path)

    def release(self) -> None:
        """Let go."""
        if self.is_mine:
            self.path.unlink()


def silence_s(path: Path) -> float:
    """Seconds since the owner's last sign of life; infinite where there is no owner, or a dead one.

    The file is opened, not only looked at: NFS asks the server then, in place of its cache.
    """
    owner, touched = _read(path)
    if owner is None or _is_dead(owner):
        return float("inf")
    return file_time(path.parent) - touched


def _read(path: Path) -> tuple[dict[str, Any] | None, float]:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, 0.0


def _machine() -> str:
    """Where this process's number means something: the host, and its namespace of processes."""
    return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"


def _is_dead(owner: dict[str, Any]) -> bool:
    if owner["machine"] != _machine():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
