"""The requests of ``benchmarks.faults``, and the counts of their answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

RETRIES = 3
"""Tries after the first, as serving.client makes them."""
PAUSE_S = 0.1
TIMEOUT_S = 5.0
SHARE_OF_FEEDBACK = 0.2


@dataclass(frozen=True)
class Reply:
    """The answer to one request over a connection of its own."""

    status: int
    headers: dict[str, str]
    body: Any


async def ask(url: str, method: str, path: str, request: Any = None) -> Reply:
    """Send one request over a new connection, which any worker may take."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    content = b"" if request is None else json.dumps(request).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    answer = await reader.read()
    writer.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return Reply(int(first.split()[1]), headers, json.loads(body))


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    at: float
    """Monotonic seconds when it ended."""
    took_ms: float
    failed_tries: int
    statuses: tuple[int, ...]
    """Of its tries; 0 where there was no answer."""
    degraded: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether no try succeeded."""
        return not 200 <= self.statuses[-1] < 300

    @property
    def bad(self) -> bool:
        """Whether it was not answered at once and in full."""
        return self.failed or self.failed_tries > 0 or bool(self.degraded)


@dataclass
class Load:
    """Clients that ask one after another for lists, and report feedback."""

    url: str
    users: Sequence[int | str]
    items: Sequence[int | str]
    clients: int
    rate: float
    """Requests a second, of all clients together."""
    answers: list[Answer] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    """Events that were answered with 202."""
    versions: Counter[str] = field(default_factory=Counter)
    """Model versions that answered."""

    async def __aenter__(self) -> Load:
        self._going = True
        self._tasks = [asyncio.create_task(self._ask(seed)) for seed in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _ask(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        limits = httpx.Limits(max_keepalive_connections=1)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
            await asyncio.sleep(seed / self.rate)
            while self._going:
                started = time.monotonic()
                user, item = random.choice(len(self.users)), random.choice(len(self.items))
                if random.random() < SHARE_OF_FEEDBACK:
                    await self._report(client, self.users[user], self.items[item])
                else:
                    await self._recommend(client, self.users[user])
                rest = self.clients / self.rate - (time.monotonic() - started)
                await asyncio.sleep(max(0.0, rest))

    async def _recommend(self, client: httpx.AsyncClient, user_id: int | str) -> None:
        body = await self._send(client, "/recommend/", {"user_id": user_id, "n": 10})
        if body is not None:
            self.versions[body["model_version"]] += 1

    async def _report(
        self, client: httpx.AsyncClient, user_id: int | str, item_id: int | str
    ) -> None:
        event_id = uuid.uuid4().hex
        event = {"event_id": event_id, "user_id": user_id, "item_id": item_id}
        body = await self._send(client, "/feedback/", {**event, "event_type": "view"})
        if body is not None:
            self.acknowledged.add(event_id)

    async def _send(
        self, client: httpx.AsyncClient, path: str, request: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Send until it is answered, some times; the body of the answer."""
        started, statuses, body = time.monotonic(), list[int](), None
        for tried in range(1 + RETRIES):
            if tried:
                await asyncio.sleep(PAUSE_S * 2**tried)
            status = 0
            with contextlib.suppress(httpx.TransportError):
                response = await client.post(f"{self.url}{path}", json=request)
                status = response.status_code
                if response.is_success:
                    body = response.json()
            statuses.append(status)
            if 200 <= status < 500 and status != 429:
                break
        now = time.monotonic()
        degraded = () if body is None else tuple(body.get("degraded", ()))
        failed = len(statuses) - (body is not None)
        self.answers.append(
            Answer(now, (now - started) * 1000.0, failed, tuple(statuses), degraded)
        )
        return body


def counted(load: Load, over_at: float) -> dict[str, Any]:
    """One row of the table.

    Args:
        load: that has ended.
        over_at: monotonic seconds at which the fault was over.
    """
    bad = [answer.at for answer in load.answers if answer.bad]
    stages = sorted({stage for answer in load.answers for stage in answer.degraded})
    statuses = Counter(s for a in load.answers for s in a.statuses if not 200 <= s < 300)
    return {
        "requests": len(load.answers),
        "failures": sum(answer.failed for answer in load.answers),
        "failed_tries": sum(answer.failed_tries for answer in load.answers),
        "degraded": sum(bool(answer.degraded) for answer in load.answers),
        "stages": " ".join(stages) or "-",
        "statuses": " ".join(f"{s or 'none'}:{n}" for s, n in sorted(statuses.items())) or "-",
        "recovery_s": round(max([0.0, *(at - over_at for at in bad)]), 2),
        "p50_ms": round(float(np.median([answer.took_ms for answer in load.answers])), 1),
        "p99_ms": round(float(np.percentile([a.took_ms for a in load.answers], 99)), 1),
    }
