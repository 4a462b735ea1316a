"""HTTP load at a fixed rate, whose latencies count from when a request should have been sent.

A client that waits for an answer before it sends the next request hides what a slow server does to
those who come meanwhile ("coordinated omission": Tene, "How NOT to Measure Latency", 2015). One
event loop and a parser of what our servers answer keep the generator's own share small.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

GIVE_UP_S = 10.0
"""After the last request, answers are waited for so long."""


@dataclass
class Outcome:
    """What became of the requests of one run."""

    rate: float
    """Requests a second that were asked for."""
    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    """Of answers with status 200."""
    failed: int = 0
    """Answers of another status, and requests without one."""
    degraded: int = 0
    """Answers that were made without a stage."""

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        found: npt.NDArray[np.float64] = np.array(self.latencies_s or [np.nan]) * 1000
        p50, p95, p99 = np.percentile(found, [50, 95, 99])
        return {
            "requests_s": round(len(self.latencies_s) / self.seconds, 1),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
            "p99_ms": round(float(p99), 1),
            "failed": self.failed,
            "degraded": self.degraded,
        }


class _Connection(asyncio.Protocol):
    """One connection that is kept, with one request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._data = b""
        self._due = 0.0

    def connection_made(self, transport: Any) -> None:  # of uvloop, which is no asyncio.Transport
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        top = self._data[:head].lower()
        place = top.find(b"content-length:")
        length = int(top[place + 15 :].split(b"\r\n", 1)[0])
        if len(self._data) < head + 4 + length:
            return
        body, self._data = self._data[head + 4 :], b""
        self._load.answered(self, self._due, top.startswith(b"http/1.1 200"), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)


class _Load:
    """Requests that wait for a connection, and the connections that wait for one."""

    def __init__(self, outcome: Outcome, port: int) -> None:
        self.outcome = outcome
        self.free: list[_Connection] = []
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.open = 0
        self._port = port
        self._connecting: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """One more connection."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), "127.0.0.1", self._port
        )
        self._is_free(connection)

    def lost(self, connection: _Connection) -> None:
        """The server closed a connection, which may have waited long for a request."""
        if connection in self.free:
            self.free.remove(connection)
        else:
            self.open -= 1
            self.outcome.failed += 1
        with suppress(RuntimeError):  # the load has ended
            task = asyncio.get_running_loop().create_task(self.connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def send(self, request: bytes, due: float) -> None:
        self.open += 1
        if self.free:
            self.free.pop().send(request, due)
        else:
            self.waiting.append((request, due))

    def answered(self, connection: _Connection, due: float, success: bool, body: bytes) -> None:
        self.open -= 1
        if success:
            self.outcome.latencies_s.append(time.perf_counter() - due)
            self.outcome.degraded += b'"degraded":[]' not in body
        else:
            self.outcome.failed += 1
        self._is_free(connection)

    def _is_free(self, connection: _Connection) -> None:
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.free.append(connection)


def encoded(host: str, path: str, body: bytes) -> bytes:
    """A POST of JSON as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int = 256
) -> Outcome:
    """Send requests, one after the other and again from the first, at a rate.

    Args:
        port: of a server on this machine.
        requests: see ``encoded``.
        rate: requests a second; the times between them are exponential (a Poisson process).
        seconds: how long.
        connections: kept open.
    """
    import uvloop

    return uvloop.run(_run(port, requests, Outcome(rate, seconds), connections))


async def _run(port: int, requests: Sequence[bytes], outcome: Outcome, connections: int) -> Outcome:
    load = _Load(outcome, port)
    for _ in range(connections):
        await load.connect()
    gaps = np.random.default_rng(0).exponential(
        1 / outcome.rate, int(outcome.rate * outcome.seconds)
    )
    due = time.perf_counter() + 0.1 + np.cumsum(gaps)
    for place, at in enumerate(due.tolist()):
        wait = at - time.perf_counter()
        if wait > 0.0005:
            await asyncio.sleep(wait)
        elif place % 64 == 0:
            await asyncio.sleep(0)  # a generator that is late lets answers in
        load.send(requests[place % len(requests)], at)
    give_up = time.perf_counter() + GIVE_UP_S
    while load.open and time.perf_counter() < give_up:
        await asyncio.sleep(0.05)
    outcome.failed += load.open
    return outcome
