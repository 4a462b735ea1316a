"""Requests a second and their latencies over HTTP, of our server and of the plain way.

The load is open: requests are sent when they are due, whether or not earlier ones were answered,
and latencies count from then. It runs on the same cores as the server and its online store.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._command import run_command
from benchmarks._open_loop import encoded, run_load
from benchmarks._report import save, table
from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.embedded import free_port, online_url
from feature_repo.contract.errors import ArtifactError, ConfigError
from serving.release import Release
from trainer.distributed import set_up_logging

log = logging.getLogger("benchmarks.serving")

HELP = """\
python -m benchmarks.serving [KEY=VALUE ...]

  release=releases/current   what is served, from the online store of REDIS_URL or the embedded one
  data=data/complete_journey the shop, for the plain server's Feast repository
  evaluation=runs/.../evaluation-validation/evaluation.json   what is said of the lists' quality
  rates=[10,...,2000]        requests a second; a server that answers too late gets no higher ones
  seconds=10                 for which each rate is held
  n=10                       items of an answer
  workers=2                  processes of our server
  plain=true                 also the plain way
  name=serving               benchmarks/results/<name>.json
"""

READY_S = 300.0
TOO_LATE_MS = 1000.0
"""A server whose 95th percentile is beyond this is not asked for more."""
FAILING = 0.01
"""Nor is one that fails a larger share of the requests."""
WARM_UP_S = 3.0


@dataclass
class Config:
    """Settings of the benchmark."""

    release: str = "releases/current"
    data: str = "data/complete_journey"
    evaluation: str = "runs/complete_journey/evaluation-validation/evaluation.json"
    rates: list[int] = field(
        default_factory=lambda: [10, 20, 50, 100, 200, 300, 500, 700, 1000, 1250, 1500, 2000]
    )
    seconds: float = 10.0
    n: int = 10
    workers: int = 2
    plain: bool = True
    name: str = "serving"

    def __post_init__(self) -> None:
        for setting in ("seconds", "n", "workers"):
            if getattr(self, setting) <= 0:
                raise ConfigError(f"{setting} must be above zero; got {getattr(self, setting)}.")
        if not self.rates or min(self.rates) <= 0:
            raise ConfigError(f"rates must be above zero; got {self.rates}.")


def measure(config: Config) -> None:
    """Serve, ask, print the table and keep it."""
    set_up_logging()
    folder = Path(config.release).resolve()
    release = Release.load(folder)
    bodies = _bodies(release, config.n)
    store = online_url()
    judged = _judged(Path(config.evaluation))
    log.info("%s users, %s items; %s", len(bodies), len(release.retriever.items), judged)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for system, command in _commands(config, folder, Path(scratch)).items():
            with _serving(command, store) as (port, pid):
                rows += _ladder(system, config, port, pid, bodies)
    sys.stdout.write(f"\n{table(rows)}\n{judged}\n")
    path = save(config.name, {**asdict(config), "judged": judged}, rows)
    sys.stdout.write(f"{path}\n")


def _bodies(release: Release, n: int) -> list[bytes]:
    """A request of every user, in random order."""
    users = release.user_ids().to_pylist()
    order = np.random.default_rng(0).permutation(len(users))
    return [json.dumps({"user_id": users[place], "n": n}).encode() for place in order]


def _judged(path: Path) -> str:
    """How good the lists are that are served, of items of all kinds and of new ones."""
    if not path.exists():
        return f"{path} does not say how good the lists are."
    judged = read_json(path)
    parts = [
        f"{task} {method['metrics']['ndcg']['mean']:.4f}"
        for task, found in judged["tasks"].items()
        for method in found["methods"]
        if method["is_system"]
    ]
    return f"NDCG@{judged['k']} on {judged['split']}: {', '.join(parts)}."


def _commands(config: Config, release: Path, scratch: Path) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "serving", "--release", str(release), "--log-level", "warning"]
    ours += ["--feedback", str(scratch / "feedback"), "--items", str(scratch / "items")]
    found = {"shoprec": [*ours, "--workers", str(config.workers)]}
    if config.plain:
        plain = [sys.executable, "-m", "benchmarks._plain_server", "--release", str(release)]
        found["the plain way"] = [*plain, "--data", str(Path(config.data).resolve())]
    return found


@contextmanager
def _serving(command: list[str], store: str) -> Iterator[tuple[int, int]]:
    """A server that is ready: its port and its process."""
    port = free_port()
    environment = {**os.environ, "REDIS_URL": store, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=REPOSITORY, env=environment, start_new_session=True
    )
    try:
        _wait(process, port)
        yield port, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise ArtifactError("The server did not start; see above.")


def _ladder(
    system: str, config: Config, port: int, pid: int, bodies: Sequence[bytes]
) -> list[dict[str, Any]]:
    """One row a rate, up to the first that the server does not keep up with."""
    requests = [encoded(f"127.0.0.1:{port}", "/recommend/", body) for body in bodies]
    run_load(port, requests, min(config.rates), WARM_UP_S)
    rows = []
    for rate in sorted(config.rates):
        outcome = run_load(port, requests, rate, config.seconds)
        row = {"system": system, "rate": rate, **outcome.row(), "memory_gb": _memory_gb(pid)}
        rows.append(row)
        log.info("%s", row)
        failing = outcome.failed > FAILING * rate * config.seconds
        if failing or not row["p95_ms"] <= TOO_LATE_MS:
            break
    return rows


def _memory_gb(pid: int) -> float:
    """Proportional set size of a process and all below it."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            children = Path(f"/proc/{one}/task/{one}/children").read_text(encoding="utf-8")
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        waiting += [int(child) for child in children.split()]
    return round(total * 1024 / 1e9, 2)


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit code."""
    return run_command(arguments, Config, HELP, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
