"""The log of served rows: which features a share of the requests was answered with.

A request only puts its user's row into a buffer. A thread writes what waits now and then, each
time a file of its own in the format of ``feature_repo.contract.served_rows``, which the job
``skew`` reads as well. The buffer is bounded: where the disk is full or too slow rows are lost, and
counted. Files older than ``KEPT_DAYS`` are removed.
"""

from __future__ import annotations

import os
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.online import UserRows
from feature_repo.contract.schema import Schema
from feature_repo.contract.served_rows import read_served_rows, write_served_rows
from serving.background import Writer
from serving.ids import Id
from serving.monitor.config import Windows
from serving.online import UserFeatures

ROWS = "served"
"""Folder of the log of rows, beside the feedback log."""
MOST_WAITING = 10_000
"""Rows that wait to be written."""
EVERY_S = 60.0
"""Time between two writes."""
KEPT_DAYS = 60
"""Older files are removed: they hold what is known of users."""
STAMP = "%Y%m%dT%H%M%S%f"
"""Of the time of writing, in a file's name."""

Count = Callable[[int, int], None]
"""Is told how many rows were logged and how many were lost."""
Waiting = tuple[UserRows, list[int]]
"""What the store answered, and which of its rows are logged."""


def _wall() -> datetime:
    return datetime.now(UTC)


class RowLog(Writer):
    """Writes served rows behind the requests; ``add`` never waits for the disk."""

    def __init__(
        self,
        folder: Path,
        project: str,
        count: Count = lambda logged, lost: None,
        most_waiting: int = MOST_WAITING,
        now: Callable[[], datetime] = _wall,
    ) -> None:
        """Write nothing yet, and start no thread.

        Args:
            folder: of the log's files, ``<project>-<time>-<process>.parquet``.
            project: the shop's name.
            count: is told what became of rows.
            most_waiting: more rows than these are lost while they wait.
            now: the wall clock.
        """
        super().__init__("served rows", EVERY_S)
        self.folder, self.project = folder, project
        self._count, self._most, self._now = count, most_waiting, now
        self._waiting: deque[tuple[Schema, IdType, Waiting]] = deque()
        self._number = 0

    def add(self, schema: Schema, user_id: IdType, rows: UserRows, places: list[int]) -> None:
        """Have some rows written soon; they are lost where too many wait."""
        if self._number + len(places) > self._most:
            self._count(0, len(places))
            return
        self._number += len(places)
        self._waiting.append((schema, user_id, (rows, places)))
        self._begin()

    def flush(self) -> None:
        """Write what waits; where that fails it is lost, for rows are only a sample."""
        with self._writing:
            by_schema: dict[str, tuple[Schema, IdType, list[pa.Table]]] = {}
            number = 0
            while self._waiting:
                schema, user_id, (rows, places) = self._waiting.popleft()
                _, _, tables = by_schema.setdefault(schema.fingerprint, (schema, user_id, []))
                tables.append(rows.table.take(pa.array(places, pa.int64())))
                number += len(places)
            self._number -= number
            if not number:
                return
            try:
                self._write(list(by_schema.values()))
            except OSError as error:
                where = f"{self.folder}, and are lost: {error}."
                self._tell(f"Served rows cannot be written to {where}")
                self._count(0, number)
                return
        self._count(number, 0)

    def _write(self, parts: Sequence[tuple[Schema, IdType, list[pa.Table]]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for schema, user_id, tables in parts:
            name = f"{self.project}-{self._now():{STAMP}}-{os.getpid()}-{schema.fingerprint}"
            rows = pa.concat_tables(tables)
            write_served_rows(self.folder / f"{name}.parquet", rows, schema, user_id)
        oldest = self._now() - timedelta(days=KEPT_DAYS)
        for path, written in row_files(self.folder, self.project):
            if written < oldest:
                with suppress(FileNotFoundError):  # another worker was first
                    path.unlink()


class Sampled:
    """An online store of whose answers a share is logged."""

    def __init__(
        self,
        store: UserFeatures,
        rows: RowLog,
        schema: Schema,
        user_id: IdType,
        share: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Log nothing yet.

        Args:
            store: what answers.
            rows: where they are logged.
            schema: of the rows.
            user_id: type of ids.
            share: of the requests, 0 to 1.
            draw: numbers from 0 to below 1.
        """
        self._store, self._rows, self._schema, self._user_id = store, rows, schema, user_id
        self._share, self._draw = share, draw

    def read(self, user_ids: Sequence[Id], now: datetime) -> UserRows:
        """The store's answer.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        found = self._store.read(user_ids, now)
        places = [place for place in range(len(user_ids)) if self._draw() < self._share]
        if places:
            self._rows.add(self._schema, self._user_id, found, places)
        return found


def sampled(
    store: UserFeatures, rows: RowLog, schema: Schema, user_id: IdType, share: float
) -> UserFeatures:
    """The store, of whose answers a share is logged; itself where there is none."""
    return Sampled(store, rows, schema, user_id, share) if share > 0 else store


def row_files(folder: Path, project: str) -> Iterator[tuple[Path, datetime]]:
    """The log's files and when each was written, oldest first."""
    name = re.compile(rf"{re.escape(project)}-(\d{{8}}T\d{{12}})-.*\.parquet")
    for path in sorted(folder.glob(f"{project}-*.parquet")):
        matched = name.fullmatch(path.name)
        if matched is not None:
            yield path, datetime.strptime(matched[1], STAMP).replace(tzinfo=UTC)


def read_rows(
    folder: Path, project: str, windows: Windows, schema: Schema, user_id: IdType
) -> tuple[list[pa.Table], int]:
    """The rows of the recent window and of all before, each user's latest in each; and how many
    files of other schemas, or broken ones, were passed over.
    """
    parts: list[list[pa.Table]] = [[], []]
    passed = 0
    for path, written in row_files(folder, project):
        window = windows.of(written.timestamp())
        if window is None:
            continue
        try:
            parts[min(window, 1)].append(read_served_rows(path, schema, user_id))
        except ArtifactError:
            passed += 1
    return [latest(pa.concat_tables(own)) if own else pa.table({}) for own in parts], passed


def latest(rows: pa.Table) -> pa.Table:
    """Of rows in the order of time, each user's last one."""
    codes = np.asarray(column_of(rows, "user_id").dictionary_encode().indices)
    _, first = np.unique(codes[::-1], return_index=True)
    return rows.take(pa.array(np.sort(len(codes) - 1 - first)))


def some(rows: pa.Table, most: int) -> pa.Table:
    """At most so many rows, drawn by a fixed seed."""
    if len(rows) <= most:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return rows.take(pa.array(np.sort(chosen)))
