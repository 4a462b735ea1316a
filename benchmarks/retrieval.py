"""Candidate models on published splits: full rankings, beside what papers report on them.

Every model is trained by ``python -m trainer`` with the settings of ``conf/experiment/
interactions``, which were chosen with split=validation: a tenth of train. On NCF's split the
metric is its own: a held-out item among 99 given ones ("sampled").
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._command import run_command
from benchmarks._peers import PUBLISHED
from benchmarks._report import save, table
from benchmarks._sampled import drawn_negatives, judge_sampled, read_negatives
from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import REPOSITORY, Dataset
from feature_repo.contract.errors import ArtifactError, ConfigError
from trainer.config import choices
from trainer.distributed import set_up_logging
from trainer.fitted import load_fitted
from trainer.sets import judged_users

log = logging.getLogger("benchmarks.retrieval")

HELP = """\
python -m benchmarks.retrieval gowalla=DIR amazoncds=DIR ncf=DIR [KEY=VALUE ...]

  gowalla=DIR amazoncds=DIR  train.txt and test.txt, a user and the items a line (NGCF's format)
  ncf=DIR              ml-1m.train.rating, ml-1m.test.rating and ml-1m.test.negative
  models=[...]         of conf/experiment/interactions/<data set>; by default all of them
  blend=true           also the blend of all, with weights learned on validation (not on ncf)
  seeds=[0,1,2]        of models that are drawn for
  split=test           or validation, to choose settings by
  folder=data/interactions   gets the data sets
  runs=runs/interactions     gets the runs: a finished one is found again
  name=retrieval       benchmarks/results/<name>.json
"""

BLEND = "blend"
EDGES = {"validation": "t1", "test": "t2"}
NAMES = {
    "two_tower": "two-tower",
    "graph_filter": "graph filter",
    "item_knn": "item-kNN",
    "lightgcn": "LightGCN",
    "ials": "iALS",
    "ease": "EASE",
    "mf": "MF",
    BLEND: "blend of all",
}
TEACHERS = {("gowalla", "two_tower"): "graph_filter"}
"""Data set and model -> the model that teaches it (``model.teacher``)."""
FITTED = ("ials", "graph_filter")
"""Models that are fitted at once, from first values of a seed of their own."""
DETERMINISTIC = ("item_knn", "ease")
"""Models that draw nothing: one seed says all."""


@dataclass
class Config:
    """Settings of the benchmark."""

    gowalla: str | None = None
    amazoncds: str | None = None
    ncf: str | None = None
    models: list[str] = field(default_factory=list)
    blend: bool = True
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    split: str = "test"
    folder: str = "data/interactions"
    runs: str = "runs/interactions"
    name: str = "retrieval"

    def __post_init__(self) -> None:
        if self.split not in EDGES:
            raise ConfigError(f"split must be one of {sorted(EDGES)}; got {self.split}.")
        if not self.seeds:
            raise ConfigError("seeds must name at least one seed.")

    def files(self) -> dict[str, Path]:
        """Data set -> the folder of its files, for those that are given."""
        given = {"gowalla": self.gowalla, "amazoncds": self.amazoncds, "ncf": self.ncf}
        return {name: Path(path) for name, path in given.items() if path is not None}


@dataclass(frozen=True)
class Measured:
    """One finished run."""

    folder: Path
    seconds: float
    """Wall time of the whole command."""
    memory_gb: float
    """Largest resident memory of its process."""

    def after(self, *others: Measured) -> Measured:
        """This run, and all that had to be trained before it."""
        every = (self, *others)
        return Measured(
            self.folder, sum(run.seconds for run in every), max(run.memory_gb for run in every)
        )


class Bench:
    """One data set's runs."""

    def __init__(self, config: Config, name: str, files: Path) -> None:
        self.config = config
        self.name = name
        self.files = files
        self.root = Path(config.folder).resolve() / name
        group = f"interactions/{name}/"
        known = [found.removeprefix(group) for found in choices("experiment") if group in found]
        unknown = sorted(set(config.models) - set(known)) if name != "ncf" else []
        if unknown:
            raise ConfigError(f"There is no experiment {group}{unknown[0]}; choose of {known}.")
        self.models = [model for model in known if not config.models or model in config.models]

    @property
    def data(self) -> list[str]:
        """Overrides that name the data set."""
        return ["data=interactions", f"data.name={self.name}", f"data.root={self.root}"]

    def ingest(self) -> None:
        """Make the sets, or find them."""
        prefix = "ml-1m." if self.name == "ncf" else ""
        ending = "rating" if self.name == "ncf" else "txt"
        paths = [f"data.{x}={self.files / f'{prefix}{x}.{ending}'}" for x in ("train", "test")]
        shape = "triples" if self.name == "ncf" else "lists"
        arguments = ["interactions", *self.data, *paths, f"data.format={shape}"]
        _python("feature_repo.jobs", arguments)

    def run(self, model: str, seed: int, edge: str) -> Measured:
        """Train one model, or find its finished run."""
        experiment = f"experiment=interactions/{self.name}/{model}"
        own = [f"model.seed={seed}"] if model in FITTED else []
        overrides = [experiment, f"seed={seed}", f"cutoff={edge}", *own]
        if (self.name, model) not in TEACHERS:
            return self._trained(overrides)
        teacher = self.run(TEACHERS[self.name, model], seed, edge)
        return self._trained([*overrides, f"model.teacher.run='{teacher.folder}'"]).after(teacher)

    def _trained(self, overrides: list[str]) -> Measured:
        fixed = [*self.data, f"paths.runs={self.config.runs}", "sharding.device=auto"]
        arguments = [*overrides, *fixed, "validate=true", "trainer.keep_checkpoints=1"]
        started = time.monotonic()
        out, memory_gb = _python("trainer", arguments)
        folder = Path(out.splitlines()[-1])
        record = folder / "measured.json"
        if not record.exists():
            seconds = time.monotonic() - started
            write_json(record, {"seconds": seconds, "memory_gb": memory_gb})
        found = read_json(record)
        return Measured(folder, float(found["seconds"]), float(found["memory_gb"]))

    def blended(self, seed: int, edge: str, weights: Path | None) -> Measured:
        """The blend of all models; ``weights``: of the run that they were learned in."""
        members = {model: self.run(model, self._seed(model, seed), edge) for model in self.models}
        runs = ", ".join(f"{model}: '{found.folder}'" for model, found in members.items())
        taken = [] if weights is None else [f"model.weights='{weights}'"]
        overrides = ["model=blend", f"cutoff={edge}", f"seed={seed}", *taken]
        return self._trained([*overrides, f"+model.runs={{{runs}}}"]).after(*members.values())

    def _seed(self, model: str, seed: int) -> int:
        return self.config.seeds[0] if model in DETERMINISTIC else seed

    def scores(self, found: Measured, edge: str) -> dict[str, float]:
        """Recall and NDCG of a run, by the data set's protocol."""
        if self.name != "ncf":
            result = read_json(found.folder / "result.json")
            return {"recall": result["recall_new_20"], "ndcg": result["ndcg_new_20"]}
        source, encoder = load_fitted(found.folder)
        rows = judged_users(Dataset.load(self.root / "dataset.json"), edge)
        negatives = (
            read_negatives(self.files / "ml-1m.test.negative")
            if edge == EDGES["test"]
            else drawn_negatives(rows, encoder, seed=0)
        )
        return judge_sampled(source, rows, encoder, negatives)

    def rows(self) -> list[dict[str, Any]]:
        """The table's rows: published figures, then each model's."""
        edge = EDGES[self.config.split]
        found = [self._published(published) for published in PUBLISHED[self.name]]
        for model in self.models:
            seeds = self.config.seeds[:1] if model in DETERMINISTIC else self.config.seeds
            runs = [self.run(model, seed, edge) for seed in seeds]
            found.append(self._row(model, runs, [self.scores(run, edge) for run in runs]))
            log.info("%s", found[-1])
        if self.config.blend and self.name != "ncf" and len(self.models) > 1:
            learned = self.blended(self.config.seeds[0], EDGES["validation"], None)
            runs = [learned]
            if edge != EDGES["validation"]:
                runs = [self.blended(seed, edge, learned.folder) for seed in self.config.seeds]
            found.append(self._row(BLEND, runs, [self.scores(run, edge) for run in runs]))
        return found

    def _published(self, row: Any) -> dict[str, Any]:
        figures = {"recall": row.recall, "ndcg": row.ndcg, "deviation": None}
        return {"data": self.name, "model": row.model, **figures} | {
            "seconds": None,
            "GB": None,
            "source": row.source,
        }

    def _row(
        self, model: str, runs: list[Measured], scores: list[dict[str, float]]
    ) -> dict[str, Any]:
        recall, ndcg = (np.array([score[name] for score in scores]) for name in ("recall", "ndcg"))
        deviation = float(ndcg.std(ddof=1)) if len(ndcg) > 1 else None
        return {
            "data": self.name,
            "model": f"shoprec {NAMES.get(model, model)}",
            "recall": float(recall.mean()),
            "ndcg": float(ndcg.mean()),
            "deviation": deviation,
            "seconds": float(np.mean([run.seconds for run in runs])),
            "GB": max(run.memory_gb for run in runs),
            "source": f"{len(runs)} seeds" if len(runs) > 1 else "1 seed",
        }


def _python(module: str, arguments: list[str]) -> tuple[str, float]:
    """Run ``python -m module``; its output, and its largest resident memory in GB.

    Raises:
        ArtifactError: it failed; its last words are told.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ArtifactError(f"{' '.join(command)} ended with code {process.returncode}.")
    return out, usage.ru_maxrss * 1024 / 1e9


def measure(config: Config) -> None:
    """Run everything, print the table and keep it."""
    set_up_logging()
    files = config.files()
    if not files:
        raise ConfigError("Name the folder of at least one data set, such as gowalla=DIR.")
    rows = []
    for name, folder in files.items():
        bench = Bench(config, name, folder)
        bench.ingest()
        rows += bench.rows()
    for name in files:
        metric = "HR@10 / NDCG@10, sampled" if name == "ncf" else "Recall@20 / NDCG@20"
        own = [row for row in rows if row["data"] == name]
        sys.stdout.write(f"\n{name}: {metric}, {config.split}\n\n{table(rounded(own))}")
    path = save(config.name, json.loads(json.dumps(asdict(config))), rows)
    sys.stdout.write(f"\n{path}\n")


def rounded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they are printed: metrics to four places."""
    metrics = ("recall", "ndcg", "deviation")
    return [
        {
            key: f"{value:.4f}" if key in metrics and value is not None else value
            for key, value in row.items()
            if key != "data"
        }
        for row in rows
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit code."""
    return run_command(arguments, Config, HELP, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
