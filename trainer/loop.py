"""The training loop that all models share: steps, evaluations, checkpoints, resumption.

A model comes as a ``Task``. Dense layers train by AdamW with gradients averaged over the
processes; tables train inside of the backward pass.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from tqdm import tqdm

from feature_repo.contract.errors import ConfigError
from feature_repo.contract.randomness import key
from trainer import checkpoints
from trainer.config import Compute, LoopConfig, OptimizerConfig, Schedule
from trainer.distributed import Process
from trainer.embeddings import ShardedTables
from trainer.prefetch import prefetched
from trainer.randomness import Stream
from trainer.runs import Run
from trainer.step import StepInputs, TrainStep

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
POLL_STEPS = 10
"""Steps between looks for a file STOP."""


class Stopped(Exception):
    """Somebody made a file STOP in the run's folder; a checkpoint is written."""


class Task(Protocol[Batch]):
    """What is trained, and on what."""

    @property
    def tables(self) -> ShardedTables:
        """What trains inside of the backward pass."""

    @property
    def dense(self) -> nn.Module:
        """What trains by AdamW."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    def num_batches(self) -> int:
        """Batches an epoch, equal on every process."""

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """This process's parts of an epoch's batches from ``first`` on; the same ones whenever
        they are asked again. Runs in a thread of its own: no collectives."""

    def prepare(self, batch: Batch, step: int) -> StepInputs:
        """Inputs of a step, on the host; ``step`` counts from 0 over the whole run. May be a
        collective."""

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """This process's share of the loss: the mean over the processes is the loss of the whole
        batch."""

    def evaluate(self) -> dict[str, float]:
        """Metrics of the model as it is, equal on every process; a collective. May be empty."""


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    """Epochs done when ``best`` was reached."""
    pending: list[float] = field(default_factory=list)
    """Losses of the steps since the last report."""


class Trainer(Generic[Batch]):
    """Trains one task in one run folder; started again, it goes on from the last checkpoint."""

    def __init__(
        self,
        task: Task[Batch],
        run: Run,
        loop: LoopConfig,
        optimizer: OptimizerConfig,
        process: Process,
        dense_optimizer: torch.optim.Optimizer | None = None,
        warm_start: Path | None = None,
    ) -> None:
        """Set up the first step.

        Args:
            task: what is trained.
            run: where it is written.
            loop: settings of the loop.
            optimizer: settings of the optimisers.
            process: this one.
            dense_optimizer: steps the dense layers in place of AdamW.
            warm_start: a checkpoint of an earlier run, to begin with its values.
        """
        self.task = task
        self.run = run
        self.loop = loop
        self.optimizer = optimizer
        self.process = process
        self.warm_start = warm_start
        self.adam: torch.optim.Optimizer = dense_optimizer or torch.optim.AdamW(
            task.dense.parameters(), lr=optimizer.dense_lr, weight_decay=optimizer.weight_decay
        )
        self.progress = Progress()
        self.metrics: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._examples = 0
        self._since = time.monotonic()
        self._on_gpu = process.device.type == "cuda"
        if self._on_gpu and loop.compute is Compute.bf16:
            torch.set_float32_matmul_precision("high")  # products that autocast leaves in float32
        self._model = TrainStep(
            task.tables.sharded, task.dense, task.head, process.device, loop.compute
        )

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return self.run.folder / "checkpoints"

    @property
    def batches_per_epoch(self) -> int:
        """Steps of one epoch."""
        num_batches = self.task.num_batches()
        return num_batches if self.loop.max_steps is None else min(num_batches, self.loop.max_steps)

    def train(self) -> dict[str, float]:
        """Train to the end; return the metrics of the kept epoch.

        Raises:
            Stopped: a file STOP was found in the run's folder.
        """
        self._resume()
        while self.progress.epoch < self.loop.epochs and not self._out_of_patience():
            self._epoch()
        best = checkpoints.latest(self.folder, checkpoints.BEST)
        if self.loop.select is not None and best is not None:
            self._load(best)
        return self.metrics

    def _resume(self) -> None:
        if self.process.is_first:
            self.run.forget_stop()
        self.process.barrier()
        found = checkpoints.latest(self.folder)
        if found is None:
            self._begin()
            return
        self._load(found)
        self.run.rewind(self.progress.step)
        log.info("Resumed %s at epoch %d, step %d.", found, self.progress.epoch, self.progress.step)

    def _begin(self) -> None:
        self.run.rewind(0)
        if self.warm_start is not None:
            checkpoints.warm_start(self.warm_start, self.task.tables, self.task.dense, self.adam)
            log.info("Started with the values of %s.", self.warm_start)
        elif self.process.world_size > 1:
            for value in itertools.chain(self.task.dense.parameters(), self.task.dense.buffers()):
                dist.broadcast(value.detach(), src=0)

    def _load(self, folder: Path) -> None:
        value = checkpoints.load(folder, self.task.tables, self.task.dense, self.adam)
        self.metrics = value.pop("metrics")
        self.progress = Progress(**value)
        self._losses = [torch.tensor(loss) for loss in self.progress.pending]

    def _save(self, name: str) -> None:
        pending = self.process.total(*(float(loss) for loss in self._losses))
        self.progress.pending = [loss / self.process.world_size for loss in pending]
        value: dict[str, Any] = {**asdict(self.progress), "metrics": self.metrics}
        checkpoints.save(
            self.folder / name, self.task.tables, self.task.dense, self.adam, value, self.process
        )

    def _epoch(self) -> None:
        progress, total = self.progress, self.batches_per_epoch
        bar = tqdm(
            desc=f"epoch {progress.epoch + 1}/{self.loop.epochs}",
            initial=progress.batch,
            total=total,
            unit="step",
            disable=None if self.process.is_first else True,
            leave=False,
        )
        self.task.dense.train()
        read = self.task.batches(progress.epoch, progress.batch)
        ahead = prefetched(itertools.islice(read, total - progress.batch))
        with bar, contextlib.closing(ahead):
            for loss in self._steps(self._prepared(ahead)):
                self._losses.append(loss)
                progress.step += 1
                progress.batch += 1
                bar.update()
                self._between_steps()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        self._end_epoch()

    def _prepared(self, batches: Iterator[Batch]) -> Iterator[StepInputs]:
        for step, batch in enumerate(batches, start=self.progress.step):
            inputs = self.task.prepare(batch, step)
            self._examples += inputs.sizes["examples"]
            yield inputs.pin_memory() if self._on_gpu else inputs

    def _steps(self, inputs: Iterator[StepInputs]) -> Iterator[Tensor]:
        """Train on each of the inputs; the loss of each."""
        if self._on_gpu:
            yield from self._pipelined(inputs)
            return
        for found in inputs:
            self._set_up_step()
            self.zero_grad()
            loss, kept = self._model(found)
            loss.backward()
            self.step()
            yield kept

    def _pipelined(self, inputs: Iterator[StepInputs]) -> Iterator[Tensor]:
        """The same with copies and all-to-alls of the next inputs beside the current step."""
        pipeline = TrainPipelineSparseDist(self._model, self, self.process.device)
        while True:
            self._set_up_step()
            try:
                kept = pipeline.progress(inputs)
            except StopIteration:
                pipeline.detach()
                return
            yield kept

    def _set_up_step(self) -> None:
        """Learning rates, and the seed of what the dense layers draw."""
        step = self.progress.step
        for group in self.adam.param_groups:
            group["lr"] = self.optimizer.dense_lr * self._rate(step, self.optimizer.schedule)
        of_tables = self.optimizer.table_schedule or self.optimizer.schedule
        self.task.tables.scale_lr(self._rate(step, of_tables))
        seed = key(self.task.seed, Stream.LAYERS, step, self.process.rank)
        torch.manual_seed(int(seed >> np.uint64(1)))

    def zero_grad(self) -> None:
        """Forget the dense gradients; with ``step``, what a pipeline takes for an optimiser."""
        self.adam.zero_grad()

    def step(self) -> None:
        """Average the dense gradients over the processes, clip them, and move the dense layers."""
        self._average_gradients()
        if self.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.task.dense.parameters(), self.optimizer.clip_norm)
        self.adam.step()

    def _rate(self, step: int, schedule: Schedule) -> float:
        """Factor of the learning rates at a step."""
        warm = self.optimizer.warmup_steps
        rise = min(1.0, (step + 1) / warm) if warm else 1.0
        done = min(1.0, step / (self.loop.epochs * self.batches_per_epoch))
        match schedule:
            case Schedule.constant:
                return rise
            case Schedule.linear:
                return rise * (1.0 - done)
            case Schedule.cosine:
                return rise * 0.5 * (1.0 + math.cos(math.pi * done))

    def _average_gradients(self) -> None:
        if self.process.world_size == 1:
            return
        gradients = [p.grad for p in self.task.dense.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.process.world_size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _between_steps(self) -> None:
        step = self.progress.step
        if step % self.loop.log_every == 0:
            self._report()
        if step % POLL_STEPS == 0 and self.process.any(self.run.stop_asked):
            self._save(f"{checkpoints.STEP}-{step}")
            raise Stopped
        if self.loop.checkpoint_every and step % self.loop.checkpoint_every == 0:
            self._save(f"{checkpoints.STEP}-{step}")
            checkpoints.prune(self.folder, self.loop.keep_checkpoints, self.process)

    def _report(self) -> None:
        if not self._losses:
            return
        loss = self.process.mean(float(torch.stack([x.cpu() for x in self._losses]).mean()))
        now = time.monotonic()
        took = max(now - self._since, 1e-9)
        rate, examples = len(self._losses) / took, self._examples / took
        self._losses, self._examples, self._since = [], 0, now
        found = {"loss": loss, "steps_per_s": rate, "examples_per_s": examples}
        self.run.record(self.progress.step, "train", found)
        log.info("step %d: loss %.4f, %.0f examples/s", self.progress.step, loss, examples)

    def _report_out_of_range(self) -> None:
        """Tell how many rows lay outside of their tables on any process."""
        counts = self.task.tables.out_of_range
        names = sorted(self.task.tables.feature_rows)
        totals = self.process.total(*(float(counts[name]) for name in names))
        found = {name: total for name, total in zip(names, totals, strict=True) if total}
        counts.clear()
        if found:
            self.run.record(self.progress.step, "out_of_range", found)
            log.warning("Rows outside of their tables, read as unknown: %s", found)

    def _end_epoch(self) -> None:
        self._report()
        self._report_out_of_range()
        last = self.progress.epoch == self.loop.epochs
        every = self.loop.evaluate_every
        if last or (every and self.progress.epoch % every == 0):
            self._evaluate()
        self._save(f"{checkpoints.STEP}-{self.progress.step}")
        checkpoints.prune(self.folder, self.loop.keep_checkpoints, self.process)
        self._since = time.monotonic()

    def _evaluate(self) -> None:
        self.task.dense.eval()
        with torch.no_grad():
            found = self.task.evaluate()
        self.metrics = {**found, "epochs": float(self.progress.epoch)}
        if not found:
            return
        self.run.record(self.progress.step, "evaluation", found)
        text = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        log.info("epoch %d: %s", self.progress.epoch, text)
        if self.loop.select is not None:
            self._keep_best(found, self.loop.select)

    def _keep_best(self, found: dict[str, float], select: str) -> None:
        if select not in found:
            raise ConfigError(
                f"trainer.select={select} is not measured; choose of {sorted(found)}."
            )
        if self.progress.best is None or found[select] > self.progress.best:
            self.progress.best, self.progress.best_epoch = found[select], self.progress.epoch
            self._save(f"{checkpoints.BEST}-{self.progress.step}")

    def _out_of_patience(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        watched = self.loop.patience > 0 and self.progress.best is not None
        return watched and waited >= self.loop.patience
