"""Writes rows into the online store as fast as it takes them.

While the store works on one batch, the next is encoded. Unless told otherwise the store is first
asked when each row was last written, and rows that are not newer are left out, as Feast does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError

from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.hash_commands import NUM_SLOTS, HashCommands, decode_times, key_slots
from feature_repo.jobs.redis_pipe import Pipe

MESSAGE_BYTES = 8 << 20
"""About how much is encoded at a time."""
_LEAST_ROWS = 64


@dataclass
class Written:
    """What became of the rows so far."""

    rows: int = 0
    """Rows that the store has confirmed, or that were left out."""
    stale: int = 0
    """Rows left out because the store has them as new or newer."""


class Pipes:
    """Connections to a Redis, or to all masters of a Redis Cluster."""

    def __init__(self, client: Any, stall_s: float = 60.0) -> None:
        """Connect.

        Raises:
            StoreUnavailable: the store does not answer, or some slots of a cluster have no master.
        """
        self._owner: npt.NDArray[np.int64] | None = None
        clients = [client]
        try:
            if isinstance(client, RedisCluster):
                clients, self._owner = _masters(client)
            self._pools = [each.connection_pool for each in clients]
            self._connections = [pool.get_connection() for pool in self._pools]
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"The online store does not answer: {error}") from error
        self._pipes = [Pipe(connection, stall_s) for connection in self._connections]

    def split(self, keys: pa.BinaryArray) -> list[tuple[Pipe, npt.NDArray[np.int64]]]:
        """The rows that go to each connection, as places in ``keys``."""
        if self._owner is None:
            return [(self._pipes[0], np.arange(len(keys)))]
        owners = self._owner[key_slots(keys)]
        parts = [(pipe, np.flatnonzero(owners == place)) for place, pipe in enumerate(self._pipes)]
        return [(pipe, rows) for pipe, rows in parts if len(rows)]

    def close(self) -> None:
        """Wait for all replies and close the connections."""
        for pool, pipe, connection in zip(self._pools, self._pipes, self._connections, strict=True):
            pipe.close()
            pool.release(connection)


def _masters(cluster: RedisCluster) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Clients of the masters, and which of them has each slot."""
    nodes: list[ClusterNode] = cluster.get_primaries()  # type: ignore[no-untyped-call]
    places = {node.name: place for place, node in enumerate(nodes)}
    slots = cluster.nodes_manager.slots_cache
    missing = NUM_SLOTS - len(slots)
    if missing:
        raise StoreUnavailable(f"{missing} slots of the Redis Cluster have no master.")
    owner = np.array([places[slots[slot][0].name] for slot in range(NUM_SLOTS)])
    return [cluster.get_redis_connection(node) for node in nodes], owner


@dataclass
class _Part:
    """The rows of one batch that go to one connection."""

    pipe: Pipe
    rows: npt.NDArray[np.int64]
    times: Future[list[Any]] | None


@dataclass
class _Batch:
    times_us: npt.NDArray[np.int64]
    parts: list[_Part]
    writes: pa.BinaryArray


class Writer:
    """Writes one view's rows; each key at most once."""

    def __init__(self, pipes: Pipes, commands: HashCommands, *, check_times: bool = True) -> None:
        self._pipes = pipes
        self._commands = commands
        self._check_times = check_times
        self._sent: deque[tuple[int, Future[list[Any]]]] = deque()
        self._written = Written()

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Written]:
        """Write the rows; yields what became of them now and then, and at the end.

        Raises:
            BadInput: a key is missing, or a value does not fit its type.
            StoreUnavailable: the store went away; the same call again goes on.
        """
        try:
            yield from self._write(batches)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"The online store went away while view {self._commands.view} was written, after "
                f"{self._written.rows:,} rows: {error}. Run the same command again; it leaves "
                "alone what is written already."
            ) from error

    def _write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Written]:
        previous: _Batch | None = None
        for batch in _by_size(batches):
            keys = self._commands.keys(batch)
            # Asked before the rows in front are sent, so that the answer is there when it is
            # needed. No key comes twice, so those rows cannot change it.
            parts = self._ask(keys)
            if previous is not None:
                self._send(previous)
            writes = self._commands.writes(keys, batch)
            previous = _Batch(self._commands.times_us(batch), parts, writes)
            self._confirm(wait=False)
            yield self._written
        if previous is not None:
            self._send(previous)
        self._confirm(wait=True)
        yield self._written

    def _ask(self, keys: pa.BinaryArray) -> list[_Part]:
        parts = self._pipes.split(keys)
        if not self._check_times:
            return [_Part(pipe, rows, None) for pipe, rows in parts]
        lookups = self._commands.lookups(keys)
        return [
            _Part(pipe, rows, pipe.submit(_wire(lookups, rows), len(rows))) for pipe, rows in parts
        ]

    def _send(self, batch: _Batch) -> None:
        for part in batch.parts:
            rows = part.rows
            if part.times is not None:
                stale = _is_stale(part.times.result(), batch.times_us[rows])
                self._written.stale += int(stale.sum())
                self._written.rows += int(stale.sum())
                rows = rows[~stale]
            if len(rows):
                num_replies = len(rows) * self._commands.replies_per_row
                confirmed = part.pipe.submit(_wire(batch.writes, rows), num_replies)
                self._sent.append((len(rows), confirmed))

    def _confirm(self, *, wait: bool) -> None:
        while self._sent and (wait or self._sent[0][1].done()):
            rows, confirmed = self._sent.popleft()
            confirmed.result()
            self._written.rows += rows


def _by_size(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of about ``MESSAGE_BYTES`` at most."""
    for batch in batches:
        if not batch.num_rows:
            continue
        count = max(_LEAST_ROWS, MESSAGE_BYTES * batch.num_rows // max(batch.nbytes, 1))
        for start in range(0, batch.num_rows, count):
            yield batch.slice(start, count)


def _wire(commands: pa.BinaryArray, rows: npt.NDArray[np.int64]) -> memoryview:
    """The commands of some rows, one after another."""
    if len(rows) < len(commands):
        commands = commands.take(pa.array(rows))
    offsets = np.frombuffer(commands.buffers()[1], dtype=np.int32)
    return memoryview(commands.buffers()[2])[: offsets[len(commands)]]


def _is_stale(
    replies: list[bytes | None], times_us: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether the store has each row as new or newer; a time before 1970 counts as none."""
    stored_s, stored_ns = decode_times(replies)
    seconds, rest_us = np.divmod(times_us, 1_000_000)
    known = (stored_s > 0) | ((stored_s == 0) & (stored_ns > 0))
    newer = (seconds > stored_s) | ((seconds == stored_s) & (rest_us * 1_000 > stored_ns))
    return known & ~newer  # type: ignore[no-any-return]
