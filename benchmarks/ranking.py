"""Rankers against every simple rule and against trees: same split, candidates and metrics.

The shop's data and retrievers are those of ``make quickstart``. Every row ranks the candidates of
the same retriever: rankers by ``ranking.scorer``, which serves them, trees on the same features and
label windows; the simple rules rank all items. Settings were chosen with split=validation.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks._command import run_command
from benchmarks._report import save, table
from benchmarks._trees import fit_trees, learned_from, matrix_of
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.embedded import URL_VARIABLE, online_url
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.event_log import objects_of
from ranking import metrics
from ranking.features import Requests
from ranking.items import ItemSide
from ranking.policy import rank_lists, seen_rows
from ranking.scorer import Scorer
from ranking.wide_deep import WideDeepConfig
from retrieval.retriever import Retriever
from trainer.distributed import set_up_logging
from trainer.evaluation.baselines import LABELS
from trainer.evaluation.cache import cached_baselines
from trainer.evaluation.config import BaselineConfig, Split
from trainer.evaluation.window import Judged, Task, Window, load_window
from trainer.quickstart import Quickstart, Shop
from trainer.ranker_inputs import fit_encoder
from trainer.ranker_windows import Window as LabelWindow
from trainer.sets import TrainingSet
from trainer.stages import Stages

log = logging.getLogger("benchmarks.ranking")

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.ranking [KEY=VALUE ...]

  split=validation     or test, once settings are chosen
  tasks=[all,new]      all: everything that was bought; new: what the user had not bought before
  rankers=[wide_deep,dcn_v2]  experiments of rankers; those of new items end in _new
  trees=true           also LightGBM on the same candidates, features and label windows
  seeds=[0,1,2]        of the trees; rankers have model.members of their own
  samples=1000         bootstrap samples of a difference
  data=[data=complete_journey]  the shop's settings, as make quickstart takes them
  runs=runs            gets the runs: a finished one is found again
  name=ranking         benchmarks/results/<name>.json
"""
K = 10
CHUNK = 256
EDGES = {"validation": 1, "test": 2}
BATCH = 64
"""Requests of the batch that scoring is timed on, beside a single one."""
TIMED_S = 2.0
SPEEDS = ("train s", "candidates/s, 1 request", f"candidates/s, {BATCH} requests")
"""Columns: seconds of training (all networks that are served; one of LightGBM), and scoring."""


@dataclass
class Config:
    """Settings of the benchmark."""

    split: str = "validation"
    tasks: list[str] = field(default_factory=lambda: ["all", "new"])
    rankers: list[str] = field(default_factory=lambda: ["wide_deep", "dcn_v2"])
    trees: bool = True
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    samples: int = 1000
    data: list[str] = field(default_factory=list)
    runs: str = "runs"
    name: str = "ranking"

    def __post_init__(self) -> None:
        if self.split not in EDGES:
            raise ConfigError(f"split must be one of {list(EDGES)}; got {self.split!r}.")
        wrong = sorted(set(self.tasks) - set(Task))
        if wrong:
            raise ConfigError(f"tasks must be of {[str(task) for task in Task]}; got {wrong}.")


@dataclass(frozen=True)
class Requested:
    """The judged users of one task that are known, with their candidates."""

    place: Ints
    """[B] places of these users among all judged ones; the others have no list."""
    users: pa.Table
    candidates: Candidates
    now_s: Ints


class Bench:
    """One shop, its retrievers and one window."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._speeds: dict[tuple[Task, str], dict[str, float]] = {}
        self.edge = EDGES[config.split]
        shop = Shop.from_overrides(config.data)
        os.environ[URL_VARIABLE] = online_url()
        runs = Path(config.runs).resolve()
        self.quick = Quickstart(shop, Stages(shop.root / ".stages"), runs, Path("releases"))
        self.quick.prepare(2)
        self.bundles = [self.quick.retriever(edge) for edge in self.quick.labelled(self.edge)]
        self.retriever = Retriever.load(self.quick.retriever(self.edge))
        self.set = TrainingSet.open(self.dataset, "ranking_v1", "users", f"t{self.edge}")

    @cached_property
    def dataset(self) -> Dataset:
        """The ingested shop."""
        return self.quick.dataset

    @cached_property
    def window(self) -> Window:
        """What lists are judged on."""
        return load_window(self.dataset, Split(self.config.split))

    @cached_property
    def judged(self) -> dict[Task, Judged]:
        """The users of each task, and what is relevant to them."""
        return {task: self.window.judged(task) for task in Task}

    def requested(self, task: Task) -> Requested:
        """Find the candidates of a task's users."""
        rows = read_table(self.set.folder / "users.parquet")
        mine = self.window.users.rows(column_of(rows, "user_id"))
        judged = self.judged[task].users
        _, place, found = np.intersect1d(judged, mine, return_indices=True)
        log.info("%d of %d judged users bought something before.", len(place), len(judged))
        users, vocabulary, parts = rows.take(pa.array(found)), self.retriever.items, []
        for start in range(0, len(users), CHUNK):
            part = users.slice(start, CHUNK)
            seen = seen_rows(part, vocabulary) if task is Task.NEW else None
            parts.append(self.retriever.candidates(part, query_times_s(part), seen))
        return Requested(place, users, Candidates.joined(parts), query_times_s(users))

    def lists(self, task: Task, requested: Requested, scores: Floats) -> Ints:
        """[J, K] rows of the window's items, of all judged users."""
        ranked = rank_lists(requested.candidates, scores, K).item_row
        ids, known = self.retriever.items.ids, ranked > 0
        rows = np.zeros_like(ranked)
        rows[known] = self.window.items.rows(ids.take(pa.array(ranked[known] - 1)))
        every = np.zeros((len(self.judged[task].users), K), dtype=np.int64)
        every[requested.place] = rows
        return every

    def rows(self, task: Task) -> list[dict[str, Any]]:
        """The table's rows of one task."""
        requested = self.requested(task)
        values = self._baselines(task)
        for name in self.config.rankers:
            experiment = f"{name}_new" if task is Task.NEW else name
            values |= self._of_ranker(task, name, experiment, requested)
        if self.config.trees and find_spec("lightgbm") is None:
            log.warning("LightGBM is left out, as it is not installed: pip install -e .[bench]")
        elif self.config.trees:
            values |= self._of_trees(task, requested)
        return [self._row(task, name, found, values) for name, found in values.items()]

    def _baselines(self, task: Task) -> dict[str, list[Ints]]:
        users = {each: judged.users for each, judged in self.judged.items()}
        found = cached_baselines(self.dataset, self.window, users, K, BaselineConfig())[task]
        return {LABELS[name]: [rows] for name, rows in found.items()}

    def _of_ranker(
        self, task: Task, name: str, experiment: str, requested: Requested
    ) -> dict[str, list[Ints]]:
        bundle = self.quick.ranker(experiment, self.edge, self.bundles)
        scorer = Scorer.load(bundle, self.set.items)
        served = self._scored(scorer, requested)
        row = f"shoprec {name}, served"

        def score(users: pa.Table, candidates: Candidates) -> None:
            scorer.score(users, candidates, self.retriever.items)

        self._speeds[task, row] = {"train s": _training_s(bundle.parent)} | speeds(score, requested)
        rows = {row: [self.lists(task, requested, served)]}
        if len(scorer.members) == 1:
            return rows
        alone = [
            Scorer(scorer.inputs, scorer.config, [member], scorer.rows) for member in scorer.members
        ]
        singles = [self.lists(task, requested, self._scored(one, requested)) for one in alone]
        return rows | {f"shoprec {name}, one network": singles}

    def _scored(self, scorer: Scorer, requested: Requested) -> Floats:
        items = self.retriever.items
        return scorer.score(requested.users, requested.candidates, items, requested.now_s)

    def _of_trees(self, task: Task, requested: Requested) -> dict[str, list[Ints]]:
        windows = [
            LabelWindow.open(bundle, self.dataset, new_only=task is Task.NEW)
            for bundle in self.bundles
        ]
        encoder = fit_encoder(windows, WideDeepConfig(), self.dataset)
        side = ItemSide.of(self.set.items, self.retriever.items, encoder)
        days = self.dataset.half_life_days

        def values(users: pa.Table, candidates: Candidates) -> Floats:
            now_s = query_times_s(users)
            return matrix_of(Requests.of(users, candidates, now_s, side, encoder.schema, days))

        data = learned_from(windows, encoder, self.dataset)
        started = time.perf_counter()
        trees = [fit_trees(data, seed) for seed in self.config.seeds]
        seconds = (time.perf_counter() - started) / len(trees)

        def score(users: pa.Table, candidates: Candidates) -> None:
            trees[0].score(values(users, candidates))

        row = "LightGBM, our candidates and features"
        self._speeds[task, row] = {"train s": seconds} | speeds(score, requested)
        every = values(requested.users, requested.candidates)
        return {row: [self.lists(task, requested, each.score(every)) for each in trees]}

    def _row(
        self, task: Task, name: str, lists: Sequence[Ints], every: dict[str, list[Ints]]
    ) -> dict[str, Any]:
        judged = self.judged[task]
        ndcg, precision = (
            np.stack([metric(found, judged.relevant, K) for found in lists])
            for metric in (metrics.ndcg_at_k, metrics.precision_at_k)
        )
        first = next((found for row, found in every.items() if row.endswith("served")), None)
        minus = ""
        if first is not None and first is not lists:
            base = metrics.ndcg_at_k(first[0], judged.relevant, K)
            found = metrics.bootstrap(
                base - ndcg.mean(axis=0), seed=0, num_samples=self.config.samples
            )
            minus = f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
        return {
            "task": str(task),
            "model": name,
            "NDCG@10": f"{ndcg.mean():.4f}",
            "P@10": f"{precision.mean():.4f}",
            "deviation": f"{ndcg.mean(axis=1).std(ddof=1):.4f}" if len(lists) > 1 else "",
            "served minus it": minus,
            **dict.fromkeys(SPEEDS, ""),
            **{
                column: round(speed) for column, speed in self._speeds.get((task, name), {}).items()
            },
        }


def _training_s(run: Path) -> float:
    """Seconds of training steps of a run's networks, as they were logged; 0 if they were not."""
    seconds = 0.0
    for path in sorted(run.glob("members/*/metrics.jsonl")) or [run / "metrics.jsonl"]:
        before = 0
        for logged in objects_of(path.read_bytes().splitlines() if path.exists() else ()):
            if logged.get("kind") == "train" and logged.get("steps_per_s"):
                seconds += max(logged["step"] - before, 0) / logged["steps_per_s"]
                before = logged["step"]
    return seconds


def speeds(score: Callable[[pa.Table, Candidates], None], requested: Requested) -> dict[str, float]:
    """Candidates that are scored a second, their features included: of one request, of a batch."""
    found = []
    for size in (1, BATCH):
        users = requested.users.slice(0, size)
        candidates = requested.candidates.take(np.arange(size))
        score(users, candidates)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < TIMED_S:
            score(users, candidates)
            count += len(candidates.item_row)
        found.append(count / (time.perf_counter() - started))
    return dict(zip(SPEEDS[1:], found, strict=True))


def measure(config: Config) -> None:
    """Train and judge everything, print the tables and keep them."""
    set_up_logging()
    bench = Bench(config)
    rows = []
    for task in map(Task, config.tasks):
        found = bench.rows(task)
        rows += found
        sys.stdout.write(f"\n{task}, {config.split}\n\n{table(found)}")
    path = save(config.name, json.loads(json.dumps(asdict(config))), rows)
    sys.stdout.write(f"\n{path}\n")


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit code."""
    return run_command(arguments, Config, HELP, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
