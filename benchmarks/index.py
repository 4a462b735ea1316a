"""The index beside scann, hnswlib, usearch and voyager: queries a second, memory, build time.

Vectors are a two-tower model's, trained on a made-up shop. Queries are vectors of users whose
histories go on after the training (``users``), and the same with as much noise as vector, which no
tower made (``noisy``). Recall is the share of the exact nearest 100 that is found.

The machine may be shared, so time is the processor's: one query at a time on one thread, and 256 at
once on two, where q/s is twice the queries of a second of processor time. The least of several
rounds counts; seconds on the clock are in the JSON file beside it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._command import run_command
from benchmarks._index_engines import ENGINES, Engine
from benchmarks._index_plot import save_plot
from benchmarks._report import RESULTS, save, table
from benchmarks._trained_vectors import Shop, trained_vectors
from feature_repo.contract.errors import ArtifactError
from retrieval.index.vectors import ItemVectors, recall
from trainer.distributed import set_up_logging

log = logging.getLogger("benchmarks.index")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.index [KEY=VALUE ...]

  items=1000000 users=500000 sessions=3000000  the shop that the two-tower model is trained on
  queries=1000           of each kind; the other users are there for tuning
  engines=[...]          shoprec, shoprec hnsw, scann, hnswlib, usearch, voyager; one that is not
                         installed is left out, and named (pip install -e .[bench])
  rounds=3               of which the least time counts
  folder=data/benchmark  where vectors and indexes lie; what is there is not made again
  name=index             benchmarks/results/<name>.json and .png
"""

K, BATCH = 100, 256
SINGLE, BATCHED = "1 query, 1 thread", "256 queries, 2 threads"
TARGETS = (0.90, 0.95, 0.99)
TIMED = 150
"""Queries that are timed one by one."""


@dataclass
class Config:
    """Settings of the benchmark."""

    items: int = 1_000_000
    users: int = 500_000
    sessions: int = 3_000_000
    judged: int = 20_000
    dim: int = 64
    queries: int = 1_000
    engines: list[str] = field(default_factory=lambda: list(ENGINES))
    rounds: int = 3
    folder: str = "data/benchmark"
    name: str = "index"

    @property
    def shop(self) -> Shop:
        """Where vectors come from."""
        return Shop(self.folder, self.users, self.items, self.sessions, self.judged, dim=self.dim)


def query_sets(users: Floats) -> dict[str, Floats]:
    """Vectors of users, and halfway to random directions."""
    noise = np.random.default_rng(0).normal(size=users.shape)
    noisy = users + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    return {"users": users, "noisy": noisy.astype(np.float32)}


def prepare(config: Config) -> Path:
    """Train, and find the exact nearest; the folder of it all."""
    items, users = trained_vectors(config.shop)
    folder = config.shop.path
    for name, queries in query_sets(np.load(users)[: config.queries]).items():
        if not (folder / f"exact-{name}.npy").exists():
            log.info("Finding the exact nearest of %d %s.", len(queries), name)
            np.save(folder / f"exact-{name}.npy", ItemVectors.of(items).nearest(queries, K) - 1)
    return folder


def build(name: str, folder: Path, queries: int) -> dict[str, Any]:
    """Build one engine's index in this process; seconds."""
    vectors = np.load(folder / "item_vectors.npy")[1:].copy()
    held_back = np.load(folder / "user_vectors.npy")[queries:]
    target = engine_folder(folder, name)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    started, used = time.monotonic(), time.process_time()
    ENGINES[name]().build(vectors, held_back, target, threads=2)
    took = {"build_s": time.monotonic() - started, "build_cpu_s": time.process_time() - used}
    (target / "built.json").write_text(json.dumps(took))
    return took


def engine_folder(folder: Path, name: str) -> Path:
    """Where an engine's index lies."""
    return folder / "engines" / name.replace(" ", "_")


def measure(name: str, folder: Path, queries: int) -> dict[str, Any]:
    """Memory of this process with the index, and recall and time by effort."""
    engine = ENGINES[name]()
    engine.version()
    before = _memory()
    engine.load(engine_folder(folder, name))
    sets = query_sets(np.load(folder / "user_vectors.npy")[:queries])
    efforts = list(engine.efforts())
    for part in sets.values():
        engine.search(part, K, efforts[-1], 2)
    memory = {key: value - before[key] for key, value in _memory().items()}
    rows = []
    for kind, users in sets.items():
        exact = np.load(folder / f"exact-{kind}.npy")
        for effort in efforts:
            rows.append(
                {"queries": kind, "effort": str(effort)} | _row(engine, users, exact, effort)
            )
    return {"memory": memory, "version": engine.version(), "rows": rows}


def _row(engine: Engine, users: Floats, exact: Ints, effort: Any) -> dict[str, Any]:
    found = float(recall(engine.search(users, K, effort, 2), exact).mean())
    if not 0.85 < found < 0.9995:
        return {"recall": found}

    def one_by_one() -> None:
        for place in range(TIMED):
            engine.search(users[place : place + 1], K, effort, 1)

    single = _least(one_by_one, TIMED)
    batched = _least(lambda: engine.search(users[:BATCH], K, effort, 2), BATCH)
    return {"recall": found, SINGLE: single, BATCHED: batched}


def _least(work: Callable[[], Any], count: int, times: int = 3) -> dict[str, float]:
    """Microseconds a query, of the processor and on the clock."""
    cpu, wall = [], []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        work()
        wall.append((time.perf_counter() - started) / count * 1e6)
        cpu.append((time.process_time() - used) / count * 1e6)
    return {"cpu_us": min(cpu), "wall_us": min(wall)}


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    parts = dict(line.split(":", 1) for line in lines)
    own, mapped = (int(parts[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile"))
    return {"own_gb": own, "mapped_gb": mapped}


def merge_rounds(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first round, with the least times of all."""
    merged = [dict(row) for row in rounds[0]["rows"]]
    for row, *others in zip(merged, *(found["rows"] for found in rounds), strict=True):
        for mode in (SINGLE, BATCHED):
            if mode in row:
                row[mode] = {
                    key: min(other[mode][key] for other in others if mode in other)
                    for key in ("cpu_us", "wall_us")
                }
    return merged


def cheapest(rows: Iterable[dict[str, Any]], mode: str, target: float) -> dict[str, Any] | None:
    """The row of least time among those that reach a recall."""
    enough = [row for row in rows if mode in row and row["recall"] >= target]
    return min(enough, key=lambda row: float(row[mode]["cpu_us"]), default=None)


def per_second(row: dict[str, Any] | None, mode: str) -> float | None:
    """Queries a second of one core, or of two."""
    if row is None:
        return None
    return (2e6 if mode == BATCHED else 1e6) / float(row[mode]["cpu_us"])


def summary(found: dict[str, dict[str, Any]], kind: str, mode: str) -> list[dict[str, Any]]:
    """One line an engine: queries a second at each recall, memory, build."""
    lines = []
    for name, result in found.items():
        rows = [row for row in result["rows"] if row["queries"] == kind]
        rates = {
            f"q/s at {target:.2f}": per_second(cheapest(rows, mode, target), mode)
            for target in TARGETS
        }
        size = {"own GB": result["memory"]["own_gb"], "mapped GB": result["memory"]["mapped_gb"]}
        lines.append({"engine": name, **rates, **size, "build CPU s": result["build_cpu_s"]})
    return sorted(lines, key=lambda line: -(line[f"q/s at {TARGETS[1]:.2f}"] or 0.0))


def compare(config: Config) -> dict[str, dict[str, Any]]:
    """Engine -> its memory, build time and rows."""
    folder = prepare(config)
    installed = [name for name in config.engines if _installed(name)]
    for name in installed:
        if not (engine_folder(folder, name) / "built.json").exists():
            log.info("%s: building.", name)
            _in_process("--build", name, folder, config)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in installed}
    for turn in range(config.rounds):
        for name in installed:
            log.info("%s: round %d.", name, turn + 1)
            rounds[name].append(_in_process("--measure", name, folder, config))
    return {
        name: {
            **json.loads((engine_folder(folder, name) / "built.json").read_text()),
            "version": results[0]["version"],
            "memory": results[0]["memory"],
            "rows": merge_rounds(results),
        }
        for name, results in rounds.items()
    }


def _installed(name: str) -> bool:
    try:
        ENGINES[name]().version()
    except ImportError as error:
        log.warning("%s is left out: %s. Install it: pip install -e .[bench]", name, error)
        return False
    return True


def _in_process(what: str, name: str, folder: Path, config: Config) -> dict[str, Any]:
    found = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.index"),
            *(what, name, str(folder), str(config.queries)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    if found.returncode:
        raise ArtifactError(f"{name} {what} failed: {found.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(found.stdout.splitlines()[-1]))


def report(config: Config) -> None:
    """Measure, print the tables, write the result and the plot."""
    found = compare(config)
    for kind in ("users", "noisy"):
        for mode in (SINGLE, BATCHED):
            sys.stdout.write(f"{kind}, {mode}\n\n{table(summary(found, kind, mode))}\n")
    rows = [{"engine": name, **result} for name, result in found.items()]
    log.info("Written to %s.", save(config.name, asdict(config), rows))
    save_plot(RESULTS / f"{config.name}.png", found, (SINGLE, BATCHED))


def main(arguments: Sequence[str]) -> int:
    """The benchmark, or one engine's part of it in a process of its own."""
    set_up_logging()
    log.setLevel(logging.INFO)
    work = {"--build": build, "--measure": measure}.get(arguments[0] if arguments else "")
    if work is None:
        return run_command(arguments, Config, HELP, report)
    found = work(arguments[1], Path(arguments[2]), int(arguments[3]))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
