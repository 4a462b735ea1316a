"""The scenarios of ``benchmarks.faults``: each breaks one thing for some seconds, and mends it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._faults_load import Load, ask
from benchmarks._faults_parts import Releases, ServerProcess, Store
from benchmarks._faults_proxy import Proxy

LONGEST_S = 60.0
"""Most time that is waited for a recovery."""
BURST = 400
"""Requests that come at once."""


@dataclass(frozen=True)
class Demand:
    """How the server is asked."""

    clients: int
    """That ask beside each other."""
    rate: float
    """Requests a second, of all together."""
    seconds: float
    """That a fault lasts."""


@dataclass
class Rig:
    """Everything that is broken, and what was noted of it."""

    demand: Demand
    store: Store
    proxy: Proxy
    releases: Releases
    server: ServerProcess
    users: list[int | str]
    items: list[int | str]
    over_at: float = 0.0
    """Monotonic seconds at which the fault was over."""
    notes: dict[str, Any] = field(default_factory=dict)

    async def wait(self) -> None:
        """Let the fault last."""
        await asyncio.sleep(self.demand.seconds)

    def over(self) -> None:
        """The fault is over."""
        self.over_at = time.monotonic()

    def load(self) -> Load:
        """Clients, which begin to ask when they are entered."""
        demand = self.demand
        return Load(self.server.url, self.users, self.items, demand.clients, demand.rate)


async def nothing(rig: Rig) -> None:
    """Break nothing, to compare with."""
    await rig.wait()


async def store_killed(rig: Rig) -> None:
    """Kill the store, and start it again."""
    rig.store.kill()
    await rig.wait()
    await asyncio.to_thread(rig.store.start)


async def store_paused(rig: Rig) -> None:
    """Let the store hang, and go on."""
    rig.store.pause()
    await rig.wait()
    rig.store.resume()


async def store_slow(rig: Rig) -> None:
    """Let the store answer half a second late."""
    rig.proxy.delay(0.5)
    await rig.wait()
    rig.proxy.delay(0.0)


async def store_flushed(rig: Rig) -> None:
    """Empty the store, and fill it again."""
    rig.store.flush()
    await rig.wait()
    await asyncio.to_thread(rig.store.fill)


async def worker_killed(rig: Rig) -> None:
    """Kill a worker; the server starts another."""
    before = rig.server.pids()
    os.kill(before[0], signal.SIGKILL)
    started = time.monotonic()
    rig.over()
    while len(set(rig.server.pids()) - {before[0]}) < rig.server.workers:
        await asyncio.sleep(0.05)
    rig.notes["replaced_s"] = round(time.monotonic() - started, 2)


async def release_replaced(rig: Rig) -> None:
    """Publish three releases one after another."""
    before = rig.server.private_mb()
    for _ in range(3):
        release = rig.releases.good()
        rig.releases.publish(release)
        started = time.monotonic()
        while set(await _versions(rig)) != {release.name}:
            await asyncio.sleep(0.2)
            if time.monotonic() - started > LONGEST_S:
                break
        rig.notes["swapped_s"] = round(time.monotonic() - started, 2)
    await asyncio.sleep(1.0)
    rig.notes["private_mb"] = [round(before), round(rig.server.private_mb())]


async def _versions(rig: Rig) -> list[str]:
    """The versions that some connections are answered from, of all workers very likely."""
    sent = [ask(rig.server.url, "GET", "/version") for _ in range(8 * rig.server.workers)]
    return [(await one).body["model_version"] for one in sent]


def refused(kind: str) -> Callable[[Rig], Awaitable[None]]:
    """Publish a release that must not be served, then take it back."""

    async def offered(rig: Rig) -> None:
        served = (rig.releases.folder / "current").resolve()
        bad: Path = getattr(rig.releases, kind)()
        rig.releases.publish(bad)
        await asyncio.sleep(rig.demand.seconds + 3.0)
        versions = set(await _versions(rig))
        rig.notes["answered_from"] = sorted(versions)
        rig.releases.publish(served)
        assert versions == {served.name}, versions

    return offered


async def disk_full(rig: Rig) -> None:
    """Let the feedback log grow no more, then again."""
    path = next(rig.server.feedback.glob("*.jsonl"))
    rig.server.limit_files(path.stat().st_size + 100)
    await rig.wait()
    rig.server.limit_files(-1)


async def server_killed(rig: Rig) -> None:
    """Kill every process of the server, and start it again."""
    await asyncio.to_thread(rig.server.kill)
    rig.over()
    started = time.monotonic()
    await asyncio.to_thread(rig.server.start)
    rig.notes["started_s"] = round(time.monotonic() - started, 2)


async def burst(rig: Rig) -> None:
    """Send many requests at once beside the load: they are answered, or told to come back."""
    request = {"user_id": rig.users[0], "n": 10}
    sent = [ask(rig.server.url, "POST", "/recommend/", request) for _ in range(BURST)]
    replies = await asyncio.gather(*sent)
    statuses = Counter(reply.status for reply in replies)
    later = [reply for reply in replies if "retry-after" in reply.headers]
    late = [reply for reply in replies if reply.status == 200 and reply.body["degraded"]]
    rig.notes |= {"statuses": {str(s): n for s, n in statuses.items()}, "degraded": len(late)}
    assert len(later) == statuses[429]


async def item_changed(rig: Rig) -> None:
    """Change a price; until every worker shows it."""
    item, price = rig.items[0], 123.25
    await ask(rig.server.url, "PUT", "/items", {"items": [{"item_id": item, "price": price}]})
    changed = old = time.monotonic()
    request, shown = {"user_id": rig.users[0], "candidate_items": [item]}, 0
    while shown < 8 * rig.server.workers:
        asked = time.monotonic()
        reply = await ask(rig.server.url, "POST", "/rank/", request)
        if reply.body["items"][0]["price"] == price:
            shown += 1
        else:
            shown, old = 0, asked
    rig.notes["old_price_s"] = round(old - changed, 3)


async def drained(rig: Rig) -> None:
    """Tell the server to end while it answers, and start it again."""
    rig.notes["exit_status"] = await asyncio.to_thread(rig.server.terminate)
    await asyncio.to_thread(rig.server.start)


SCENARIOS: dict[str, Callable[[Rig], Awaitable[None]]] = {
    "nothing fails": nothing,
    "store killed": store_killed,
    "store paused": store_paused,
    "store slow": store_slow,
    "store flushed": store_flushed,
    "worker killed": worker_killed,
    "release replaced": release_replaced,
    "corrupt release": refused("corrupt"),
    "truncated release": refused("truncated"),
    "foreign release": refused("foreign"),
    "disk full": disk_full,
    "item changed": item_changed,
    "burst": burst,
    "server killed": server_killed,
    "server told to end": drained,
}
