"""Examples a second of the two-tower trainer, beside plain PyTorch with sparse and dense gradients.

All rows train the same model on the same batches of a made-up shop: the trainer's reader, its
candidates and its towers. The peers hold their tables in torch's own embedding modules, take the
loss by autograd, and update by SparseAdam or by Adam over whole tables.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._breakdown import breakdown
from benchmarks._command import run_command
from benchmarks._report import save, table
from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Entity
from feature_repo.contract.vocabulary import Vocabulary
from feature_repo.jobs.config import SyntheticSetConfig, load_config
from feature_repo.jobs.synthetic_set import make_synthetic_set
from trainer.config import RunConfig, compose
from trainer.distributed import Process, process_group, set_up_logging
from trainer.embeddings import TableConfig
from trainer.loop import Trainer
from trainer.model_config import TwoTowerModelConfig
from trainer.prefetch import prefetched
from trainer.runs import Run
from trainer.sets import SERVICE, TrainingSet, fit_encoder
from trainer.step import StepInputs
from trainer.two_tower import FOLDER, TwoTowerTask, judge

log = logging.getLogger("benchmarks.training")

HELP = """\
python -m benchmarks.training [KEY=VALUE ...]

  device=auto|cpu|cuda   where to train
  users=1000000          rows of the user table; items=100000, dim=64
  batches=[1024,256,4096]  examples a step; the first is also trained with grown user tables
  histories=[50,0]       items of the history bag
  engines=[shoprec,sparse,dense]
  seconds=8              timed, for each row and round; rounds=3: medians are shown
  learn=500              steps of the first batch size after which recall is compared; 0: not
  scale=[1000000,10000000,100000000]  user tables (fp16, 32 wide) whose speed is compared; []: none
  sessions=500000        examples that are made
  table_lr=0.1 peer_lr=0.01  chosen on another shop, with seed=1
  folder=data/benchmark  where the made-up shop lies
  name=training          benchmarks/results/<name>.json
"""


@dataclass
class Config:
    """Settings of the benchmark."""

    device: str = "auto"
    users: int = 1_000_000
    items: int = 100_000
    dim: int = 64
    batches: list[int] = field(default_factory=lambda: [1024, 256, 4096])
    histories: list[int] = field(default_factory=lambda: [50, 0])
    engines: list[str] = field(default_factory=lambda: ["shoprec", "sparse", "dense"])
    seconds: float = 8.0
    rounds: int = 3
    learn: int = 500
    scale: list[int] = field(default_factory=lambda: [1_000_000, 10_000_000, 100_000_000])
    sessions: int = 500_000
    table_lr: float = 0.1
    """Of the trainer's row-wise Adagrad. Both rates were chosen on another shop (seed=1)."""
    peer_lr: float = 0.01
    """Of SparseAdam, and of Adam over tables."""
    seed: int = 0
    """Of the made-up shop."""
    folder: str = "data/benchmark"
    name: str = "training"


@dataclass(frozen=True)
class Row:
    """What one process measures."""

    engine: str
    users: int
    items: int
    dim: int
    batch: int
    history: int
    dtype: str
    device: str
    seconds: float
    learn: int
    data: str
    table_lr: float
    peer_lr: float


class Peer:
    """The trainer's model with tables of torch's own, trained as a tutorial would."""

    def __init__(self, task: TwoTowerTask, sparse: bool, lr: float, device: torch.device) -> None:
        self.task = task
        self.device = device
        tables = task.tables.tables.values()
        self.tables = {t.name: _embedding(t, sparse, device) for t in tables}
        self.owner = {feature: t.name for t in tables for feature in t.features}
        embeddings = [module.weight for module in self.tables.values()]
        if sparse:
            self.optimizers: list[torch.optim.Optimizer] = [
                torch.optim.SparseAdam(embeddings, lr=lr),
                torch.optim.Adam(task.dense.parameters(), lr=1e-3),
            ]
        else:
            groups: list[dict[str, Any]] = [
                {"params": embeddings, "lr": lr},
                {"params": list(task.dense.parameters())},
            ]
            self.optimizers = [torch.optim.Adam(groups, lr=1e-3)]

    def steps(self, inputs: Iterator[StepInputs]) -> Iterator[Tensor]:
        """Train on each of the inputs."""
        for found in inputs:
            moved = found.to(self.device)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = self.loss(moved)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            yield loss.detach()

    def loss(self, inputs: StepInputs) -> Tensor:
        """The trainer's loss, by autograd."""
        tensors, sizes, task = inputs.tensors, inputs.sizes, self.task
        users = task.dense.user_vectors(
            self._pooled(inputs, Entity.USER, 0, sizes["users"]), tensors["user_numbers"]
        )
        stop = sizes["users"] + sizes["mine"]
        items = task.dense.item_vectors(
            self._pooled(inputs, Entity.ITEM, sizes["users"], stop), tensors["item_numbers"]
        )
        logits = users @ items.T / task.model.temperature
        owner, place = tensors["owner"], tensors["place"]
        mask = torch.zeros_like(logits, dtype=torch.bool)
        mask[owner, place] = True
        negatives = torch.logsumexp(
            (logits - tensors["log_q"]).masked_fill(mask, -torch.inf), dim=1
        )
        losses = F.softplus(negatives[owner] - logits[owner, place])
        return (losses * tensors["weight"]).sum()

    def _pooled(
        self, inputs: StepInputs, entity: Entity, start: int, stop: int
    ) -> dict[str, Tensor]:
        found = inputs.features.to_dict()
        return {
            name: self._bag(name, found[name], start, stop)
            for name in self.task.encoder.keys(entity)
        }

    def _bag(self, name: str, bag: Any, start: int, stop: int) -> Tensor:
        offsets = bag.offsets()[start : stop + 1]
        values = bag.values()[offsets[0] : offsets[-1]]
        module = self.tables[self.owner[name]]
        if name in ("user_id", "item_id"):
            rows: Tensor = F.embedding(values, module.weight, sparse=module.sparse)
            return rows
        return F.embedding_bag(
            values,
            module.weight,
            offsets - offsets[0],
            mode="sum",
            sparse=module.sparse,
            include_last_offset=True,
        )


def _embedding(config: TableConfig, sparse: bool, device: torch.device) -> nn.Embedding:
    module = nn.Embedding(config.num_rows, config.dim, sparse=sparse, device=device)
    nn.init.normal_(module.weight, std=config.init_std)
    return module


def measure(row: Row) -> dict[str, Any]:
    """Train in this process; examples a second, and recall where asked for."""
    config = run_config(row)
    assert isinstance(config.model, TwoTowerModelConfig)
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    with process_group(config.sharding.device) as process:
        run = Run.open(config, {"sessions": sessions.digest}, process)
        write_encoder(run.folder, sessions, dataset, row)
        task = TwoTowerTask(config, config.model, dataset, sessions, process, run.folder)
        steps = _engine(row, task, run, config, process)
        prepared = _inputs(task)
        learnt = _learn(row, task, steps, prepared, run.folder, dataset) if row.learn else {}
        for _ in steps(itertools.islice(prepared, WARM)):
            pass
        timed = _timed(steps, prepared, row, process.device)
        if row.engine != "shoprec":
            return {**learnt, **timed}
        profiled = list(itertools.islice(prepared, PROFILED))
        return {**learnt, **timed, **breakdown(steps, profiled, task.tables, process.device)}


RATE = "examples_per_s"
WARM, PROFILED = 10, 20
"""Steps before the clock starts, and those whose parts are told."""


def _engine(
    row: Row, task: TwoTowerTask, run: Run, config: RunConfig, process: Process
) -> Callable[[Iterator[StepInputs]], Iterator[Tensor]]:
    if row.engine == "shoprec":
        made = Trainer(task, run, config.trainer, config.optimizer, process)
        made.task.dense.train()
        return made._steps
    peer = Peer(task, row.engine == "sparse", row.peer_lr, process.device)
    task.peer = peer  # type: ignore[attr-defined]
    return peer.steps


def _inputs(task: TwoTowerTask) -> Iterator[StepInputs]:
    """Without end, read ahead as the trainer does."""
    batches = itertools.chain.from_iterable(task.batches(e, 0) for e in itertools.count())
    for step, batch in enumerate(prefetched(batches)):
        yield task.prepare(batch, step)


def _timed(
    steps: Callable[[Iterator[StepInputs]], Iterator[Tensor]],
    prepared: Iterator[StepInputs],
    row: Row,
    device: torch.device,
) -> dict[str, float]:
    count, started = 0, time.perf_counter()
    for _ in steps(_until(prepared, started + row.seconds)):
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {RATE: count * row.batch / (time.perf_counter() - started)}


def _until(prepared: Iterator[StepInputs], deadline: float) -> Iterator[StepInputs]:
    while time.perf_counter() < deadline:
        yield next(prepared)


def _learn(
    row: Row,
    task: TwoTowerTask,
    steps: Callable[[Iterator[StepInputs]], Iterator[Tensor]],
    prepared: Iterator[StepInputs],
    folder: Path,
    dataset: Dataset,
) -> dict[str, float]:
    for _ in steps(itertools.islice(prepared, row.learn)):
        pass
    if row.engine != "shoprec":
        _copy_tables(task)
    task.dense.eval()
    task.export(folder / "judged")
    judged = TrainingSet.open(dataset, "ranking_v1", "users", "t1")
    rows = judged.users.read()
    task.dense.train()
    return {"recall": judge(folder / "judged", rows, dataset.half_life_days, 100)["recall_all_100"]}


def _copy_tables(task: TwoTowerTask) -> None:
    """A peer's values into the trainer's tables, which are then exported and judged."""
    for name, module in task.peer.tables.items():  # type: ignore[attr-defined]
        for row, column, values in task.tables.local_shards(name):
            weight = module.weight.detach()
            part = weight[row : row + len(values), column : column + values.shape[1]]
            values.copy_(part)


def run_config(row: Row) -> RunConfig:
    """The run that a row trains."""
    return compose(
        [
            *("experiment=two_tower", "data=synthetic", f"data.root={row.data}", "cutoff=t1"),
            f"paths.runs={row.data}/runs/{row.engine}-{os.getpid()}",
            f"sharding.device={row.device}",
            *(f"model.id_dim={row.dim}", f"model.dim={row.dim}", "model.min_buyers=1"),
            f"model.history_length={max(row.history, 1)}",
            *(f"trainer.batch_size={row.batch}", "trainer.cache_encoded=false"),
            *("optimizer.schedule=constant", f"optimizer.table_dtype={row.dtype}"),
            f"optimizer.table_lr={row.table_lr}",
        ]
    )


def write_encoder(folder: Path, sessions: TrainingSet, dataset: Dataset, row: Row) -> None:
    """An encoder with a row for every user and item of the shop, met in a session or not."""
    fitted = fit_encoder(sessions, dataset, 1, max(row.history, 1))
    users, items = (
        Vocabulary.build(np.arange(1, size + 1), IdType.INT64) for size in (row.users, row.items)
    )
    Encoder(fitted.schema, users, items, fitted.quantiles, fitted.history_length).save(
        folder / FOLDER / "encoder"
    )


def run_row(row: Row) -> dict[str, Any]:
    """Measure in a process of its own."""
    found = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.training",
            "--row",
            json.dumps(asdict(row)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise ConfigError(f"{row} failed: {found.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(found.stdout.splitlines()[-1]))


def make_shop(config: Config, users: int, history: int) -> Path:
    """The folder of a made-up shop, written if it is not there."""
    folder = Path(config.folder).resolve() / (
        f"{users}-{config.items}-{history}-{config.sessions}-{config.seed}"
    )
    if not (folder / "dataset.json").exists():
        settings = [
            *("data=synthetic", f"data.root={folder}", f"data.num_users={users}"),
            *(f"data.num_items={config.items}", f"sessions={config.sessions}"),
            f"history={history}",
            f"data.seed={config.seed}",
        ]
        make_synthetic_set(load_config(SyntheticSetConfig, settings))
    return folder


def compare(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of engines, batch sizes and histories, whose engines take turns within a round; and
    the parts of the trainer's steps."""
    found, parts = [], []
    for history, batch in itertools.product(config.histories, config.batches):
        data = str(make_shop(config, config.users, history))
        learn = config.learn if (batch, history) == (config.batches[0], config.histories[0]) else 0
        base = Row(
            "", config.users, config.items, config.dim, batch, history, "fp32",
            config.device, config.seconds, 0, data, config.table_lr, config.peer_lr,
        )  # fmt: skip
        runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in config.engines}
        for turn, engine in itertools.product(range(config.rounds), config.engines):
            log.info("batch %d, history %d, round %d: %s", batch, history, turn + 1, engine)
            row = replace(base, engine=engine, learn=learn if turn == 0 else 0)
            runs[engine].append(run_row(row))
        found += [_summary(batch, history, engine, runs) for engine in config.engines]
        if "shoprec" in runs:
            told = {k: v for k, v in runs["shoprec"][-1].items() if k not in ("recall", RATE)}
            parts.append({"batch": batch, "history": history, **told})
    return found, parts


def _summary(
    batch: int, history: int, engine: str, runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    rates = [run[RATE] for run in runs[engine]]
    ours = [run[RATE] for run in runs.get("shoprec", runs[engine])]
    ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=True)]
    return {
        "batch": batch,
        "history": history,
        "engine": engine,
        "examples/s": statistics.median(rates),
        "shoprec is faster by": statistics.median(ratios),
        "recall@100": runs[engine][0].get("recall"),
    }


def grow(config: Config) -> list[dict[str, Any]]:
    """The trainer's speed with user tables of growing size."""
    runs: dict[int, list[float]] = {users: [] for users in config.scale}
    for turn, users in itertools.product(range(config.rounds), config.scale):
        log.info("%d users, round %d", users, turn + 1)
        data = str(make_shop(config, users, config.histories[0]))
        row = Row(
            "shoprec", users, config.items, 32, config.batches[0], config.histories[0], "fp16",
            config.device, config.seconds, 0, data, config.table_lr, config.peer_lr,
        )  # fmt: skip
        runs[users].append(run_row(row)[RATE])
    first = runs[config.scale[0]] if config.scale else []
    return [
        {
            "users": users,
            "examples/s": statistics.median(rates),
            "of the first": statistics.median(
                mine / theirs for mine, theirs in zip(rates, first, strict=True)
            ),
        }
        for users, rates in runs.items()
    ]


def report(config: Config) -> None:
    """Measure, print the tables and write the result."""
    (rows, parts), grown = compare(config), grow(config)
    for part in (rows, parts, grown):
        sys.stdout.write((table(part) + "\n") if part else "")
    log.info("Written to %s.", save(config.name, asdict(config), [*rows, *parts, *grown]))


def main(arguments: Sequence[str]) -> int:
    """The benchmark, or one of its rows in a process of its own."""
    set_up_logging()
    log.setLevel(logging.INFO)
    if arguments[:1] == ["--row"]:
        sys.stdout.write(json.dumps(measure(Row(**json.loads(arguments[1])))) + "\n")
        return 0
    return run_command(arguments, Config, HELP, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
