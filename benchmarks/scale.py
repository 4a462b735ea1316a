"""100M users and 10M items: the trainer's memory and speed, from first step to indexed items.

The made-up shop has a row for every user and item. ``python -m trainer`` runs in several processes:
it is stopped after its first epoch, started again from its checkpoint, and exports. Memory is read
from the system while it runs; ``private`` is what nobody can take back, ``resident`` adds pages of
mapped files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._command import run_command
from benchmarks._report import save, table
from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from feature_repo.jobs.config import SyntheticSetConfig, load_config
from feature_repo.jobs.synthetic_set import make_synthetic_set
from retrieval.index import IndexConfig, Kind, build_index
from trainer.config import RunConfig, compose
from trainer.distributed import set_up_logging
from trainer.runs import identity, run_name
from trainer.sets import SERVICE, TrainingSet, fit_encoder
from trainer.two_tower import FOLDER, VECTORS

log = logging.getLogger("benchmarks.scale")

HELP = """\
python -m benchmarks.scale [KEY=VALUE ...]

  users=100000000 items=10000000 dim=32  rows and width of the tables, in fp16
  processes=2            of the run, on this machine
  batch=4096 steps=100   of each of two epochs
  sessions=1000000 history=20  examples that are made, and items of their history bags
  folder=data/scale      where everything is written (about 20 GB at the full size)
  name=scale             benchmarks/results/<name>.json
"""


@dataclass
class Config:
    """Settings of the benchmark."""

    users: int = 100_000_000
    items: int = 10_000_000
    dim: int = 32
    processes: int = 2
    batch: int = 4096
    steps: int = 100
    sessions: int = 1_000_000
    history: int = 20
    folder: str = "data/scale"
    name: str = "scale"


class Memory:
    """Largest memory of any process of a run, by what the run is doing."""

    def __init__(self, folder: Path, parent: int) -> None:
        self.folder = folder
        self.parent = parent
        self.private: dict[str, int] = {}
        self.resident: dict[str, int] = {}
        self._resumed = (folder / "checkpoints").exists()
        self._before = self._metrics()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            phase = self._phase()
            for pid in _children(self.parent):
                private, resident = _memory(pid)
                self.private[phase] = max(self.private.get(phase, 0), private)
                self.resident[phase] = max(self.resident.get(phase, 0), resident)

    def _phase(self) -> str:
        if list((self.folder / "checkpoints").glob("*.partial")):
            return "save"
        if (self.folder / FOLDER / "tables").exists():
            return "export"
        if self._metrics() == self._before:
            return "load" if self._resumed else "start"
        return "train"

    def _metrics(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _memory(pid: int) -> tuple[int, int]:
    """Bytes that are the process's own, and those with mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    parts = {
        name: int(fields.get(name, "0").split()[0]) * 1024
        for name in ("RssAnon", "RssShmem", "VmRSS")
    }
    return parts["RssAnon"] + parts["RssShmem"], parts["VmRSS"]


def overrides(config: Config, data: Path) -> list[str]:
    """The run's settings."""
    return [
        *("experiment=two_tower", "data=synthetic", f"data.root={data}", "cutoff=t1"),
        *(f"paths.runs={data}/runs", "sharding.device=cpu"),
        *(f"model.id_dim={config.dim}", f"model.dim={config.dim}", "model.min_buyers=1"),
        *(f"model.history_length={config.history}", "optimizer.table_dtype=fp16"),
        *(f"trainer.batch_size={config.batch}", f"trainer.max_steps={config.steps}"),
        *("trainer.epochs=2", "trainer.log_every=10", "trainer.cache_encoded=false"),
        *("trainer.keep_checkpoints=1", "trainer.shuffle_rows=65536", "export_tables=int8"),
    ]


def prepare(config: Config, data: Path) -> Path:
    """Make the shop, and the run's folder with an encoder of all ids; the latter's path."""
    if not (data / "dataset.json").exists():
        settings = [
            *("data=synthetic", f"data.root={data}", f"data.num_users={config.users}"),
            *(f"data.num_items={config.items}", f"sessions={config.sessions}"),
            f"history={config.history}",
        ]
        make_synthetic_set(load_config(SyntheticSetConfig, settings))
    run: RunConfig = compose(overrides(config, data))
    dataset = run.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", run.cutoff)
    name = run_name(identity(run, {"sessions": sessions.digest}))
    folder = data / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    kept = data / "encoder"
    if not kept.exists():
        fitted = fit_encoder(sessions, dataset, 1, config.history)
        users, items = (
            Vocabulary.build(np.arange(1, size + 1), IdType.INT64)
            for size in (config.users, config.items)
        )
        Encoder(fitted.schema, users, items, fitted.quantiles, config.history).save(kept)
    (folder / FOLDER).mkdir(parents=True)
    shutil.copytree(kept, folder / FOLDER / "encoder")
    return folder


def train(config: Config, data: Path, folder: Path, *, stop: bool) -> tuple[Memory, float]:
    """Run the trainer until its end or, with ``stop``, to the end of its first epoch."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={config.processes}", "-m", "trainer", *overrides(config, data)]
    started = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (data / "trainer.log").open("a") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        memory = Memory(folder, running.pid)
        while stop and running.poll() is None:
            if list((folder / "checkpoints").glob(f"step-{config.steps}")):
                (folder / "STOP").touch()
                break
            time.sleep(0.2)
        code = running.wait()
    memory.stop()
    finished = (folder / "result.json").exists()
    if finished == stop or (code != 0) != stop:
        raise ArtifactError(f"The run ended with code {code}; see {data / 'trainer.log'}.")
    return memory, time.monotonic() - started


def index_items(folder: Path, k: int = 100) -> dict[str, Any]:
    """Index the item vectors as they are after so short a training, and what it takes.

    The queries are items: users' vectors of so young a model are near to nothing, and the
    recall that is wanted is one that any effort reaches. ``benchmarks.index`` measures recall.
    """
    path = folder / FOLDER / VECTORS
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    queries = np.asarray(vectors[np.linspace(1, len(vectors) - 1, 256).astype(np.int64)])
    config = IndexConfig(kind=Kind.ivf_pq, target_recall=0.5, k=k)
    about = build_index(path, folder / "index", config, queries)
    return {
        "index_s": about.seconds,
        "index_gb": about.num_bytes / 1e9,
        f"recall@{k}": about.recall,
    }


def run(config: Config) -> list[dict[str, Any]]:
    """All of it; one row a phase."""
    data = Path(config.folder).resolve()
    log.info("Making a shop of %d users and %d items.", config.users, config.items)
    folder = prepare(config, data)
    log.info("Training an epoch.")
    first, first_s = train(config, data, folder, stop=True)
    log.info("Going on from the checkpoint, and exporting.")
    second, second_s = train(config, data, folder, stop=False)
    rows = []
    for phase in ("start", "train", "save", "load", "export"):
        seen = [memory for memory in (first, second) if phase in memory.private]
        if seen:
            private = max(memory.private[phase] for memory in seen) / 1e9
            resident = max(memory.resident[phase] for memory in seen) / 1e9
            rows.append({"phase": phase, "private GB": private, "resident GB": resident})
    rows.append({"phase": "both runs", "seconds": first_s + second_s, **_speed(folder)})
    log.info("Indexing the items.")
    rows.append({"phase": "index", **_exported(folder), **index_items(folder)})
    return rows


def _speed(folder: Path) -> dict[str, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    rates = [line["examples_per_s"] for line in lines if line["kind"] == "train"]
    return {"examples/s": float(np.median(rates))}


def _exported(folder: Path) -> dict[str, float]:
    tables = Tables.load(folder / FOLDER / "tables").tables
    size = sum(table.values.nbytes for table in tables.values()) / 1e9
    return {"tables_gb": size}


def report(config: Config) -> None:
    """Measure, print and write the result."""
    set_up_logging()
    log.setLevel(logging.INFO)
    rows = run(config)
    memory = [row for row in rows if "private GB" in row]
    sys.stdout.write(table(memory) + "\n")
    for row in rows[len(memory) :]:
        sys.stdout.write(table([row]) + "\n")
    log.info("Written to %s.", save(config.name, asdict(config), rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
