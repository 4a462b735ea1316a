"""What a server under load answers while its store, workers, releases and disk fail.

A server of several workers is asked at a steady rate. Each scenario breaks one thing for some
seconds and mends it; all answers are counted. A request that fails is sent again up to three times,
as ``serving.client`` does: ``failures`` are those that no try answered, ``degraded`` those that a
stage is missing from, and ``recovery_s`` is the time from the mending to the last answer that was
late, degraded or not there. ``lost`` are events of feedback that were acknowledged with 202 and are
not in the log afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._command import run_command
from benchmarks._faults_load import counted
from benchmarks._faults_parts import Releases, ServerProcess, Store, golden_users
from benchmarks._faults_proxy import Proxy
from benchmarks._faults_scenarios import LONGEST_S, SCENARIOS, Demand, Rig
from benchmarks._report import save
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.embedded import free_port
from feature_repo.contract.errors import ConfigError
from serving.about import About, require_release

log = logging.getLogger("benchmarks.faults")

HELP = """\
python -m benchmarks.faults [KEY=VALUE ...]

  release=releases/current  the release that is served, in copies
  workers=2              processes of the server
  clients=8              that ask beside each other
  rate=15                requests a second, of all together
  seconds=3              that a fault lasts
  only=null              names of scenarios, with commas between them; null: all
  name=faults            benchmarks/results/<name>.json
"""
CLEAN_S = 2.0
"""Time without a bad answer after which a scenario is over."""
BIG_LOG = 8 << 20


@dataclass
class Config:
    """Settings of the benchmark."""

    release: str = "releases/current"
    workers: int = 2
    clients: int = 8
    rate: float = 15.0
    seconds: float = 3.0
    only: str | None = None
    name: str = "faults"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.chosen) - set(SCENARIOS))
        if unknown:
            raise ConfigError(f"only={unknown} are no scenarios; there are {list(SCENARIOS)}.")

    @property
    def chosen(self) -> list[str]:
        """The scenarios to run."""
        return list(SCENARIOS) if self.only is None else self.only.split(",")


async def measure(rig: Rig, name: str) -> dict[str, Any]:
    """Break one thing under load; the counts of the answers."""
    rig.notes, rig.over_at = {}, 0.0
    async with rig.load() as load:
        await asyncio.sleep(1.0)
        await SCENARIOS[name](rig)
        if not rig.over_at:
            rig.over()
        ended = time.monotonic()
        while time.monotonic() < ended + LONGEST_S:
            await asyncio.sleep(0.2)
            bad = [answer.at for answer in load.answers if answer.bad]
            if time.monotonic() > max([ended, *bad]) + CLEAN_S:
                break
    row = {"scenario": name, **counted(load, rig.over_at)}
    return {**row, "lost": len(load.acknowledged - rig.server.event_ids()), "notes": rig.notes}


async def run(rig: Rig, names: Sequence[str]) -> list[dict[str, Any]]:
    """Some scenarios, one after another on one server."""
    rows = []
    for name in names:
        rows.append(await measure(rig, name))
        log.info("%s", rows[-1])
    return rows


def benchmark(config: Config) -> list[dict[str, Any]]:
    """Start everything, run the scenarios and stop everything."""
    release = require_release(Path(config.release))
    with tempfile.TemporaryDirectory(prefix="shoprec-faults-") as name:
        folder = Path(name)
        releases = Releases(folder / "releases", release)
        store = Store(folder / "store", release)
        proxy = Proxy(free_port(), store.port)
        server = ServerProcess(folder / "server", releases.folder, proxy.port, config.workers)
        users = golden_users(release).column("user_id").to_pylist()
        items = read_table(release / "items.parquet", ["item_id"]).column("item_id").to_pylist()
        try:
            _grow(server, release)
            server.start()
            demand = Demand(config.clients, config.rate, config.seconds)
            rig = Rig(demand, store, proxy, releases, server, users, items[:1000])
            return asyncio.run(run(rig, config.chosen))
        finally:
            server.stop()
            proxy.stop()
            store.stop()


def _grow(server: ServerProcess, release: Path) -> None:
    """A feedback log that is larger than any other file that workers write."""
    server.feedback.mkdir(parents=True)
    line = '{"event_id": "%08d", "user_id": 0, "item_id": 0, "event_type": "view"}\n'
    count = BIG_LOG // len(line % 0)
    path = server.feedback / f"{About.read(release, verify=False).project}.jsonl"
    path.write_text("".join(line % number for number in range(count)), encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="A server under load while things fail")
    heads = [head for head in rows[0] if head != "notes"]
    for head in heads:
        table.add_column(head.replace("_", " "), justify="left" if head == "stages" else "right")
    for row in rows:
        table.add_row(*(str(row[head]) for head in heads))
    Console(file=sys.stdout, width=160).print(table)


def work(config: Config) -> None:
    """Run, print and keep."""
    rows = benchmark(config)
    show(rows)
    path = save(config.name, asdict(config), rows)
    log.info("Wrote %s.", path)


def main() -> int:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return run_command(sys.argv[1:], Config, HELP, work)


if __name__ == "__main__":
    sys.exit(main())
