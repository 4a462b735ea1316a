"""The training loop that all models share: steps, evaluations, checkpoints, resumption.

A model comes as a ``Task``. Dense layers train by AdamW with gradients averaged over the
processes; tables train inside of the backward pass.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from feature_repo.contract.errors import ConfigError
from trainer import checkpoints
from trainer.config import LoopConfig, OptimizerConfig, Schedule
from trainer.distributed import Process
from trainer.embeddings import ShardedTables
from trainer.runs import Run

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
STOPPED = 75
"""Exit code of a run that was asked to stop and wrote a checkpoint (EX_TEMPFAIL)."""


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

    def num_batches(self) -> int:
        """Batches an epoch, equal on every process."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This process's batches of an epoch; the same ones whenever it is asked again."""

    def loss(self, batch: Batch, step: int) -> Tensor:
        """Mean loss of this process's batch; ``step`` counts from 0 over the whole run."""

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
    ) -> None:
        """``dense_optimizer`` steps the dense layers in place of AdamW."""
        self.task = task
        self.run = run
        self.loop = loop
        self.optimizer = optimizer
        self.process = process
        self.adam: torch.optim.Optimizer = dense_optimizer or torch.optim.AdamW(
            task.dense.parameters(), lr=optimizer.dense_lr, weight_decay=optimizer.weight_decay
        )
        self.progress = Progress()
        self.metrics: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._since = time.monotonic()

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
        if self.loop.select is not None and (self.folder / "best").exists():
            self._load(self.folder / "best")
        return self.metrics

    def _resume(self) -> None:
        if self.process.is_first:
            (self.run.folder / "STOP").unlink(missing_ok=True)
        self.process.barrier()
        found = checkpoints.latest(self.folder)
        if found is None:
            self._broadcast()
            return
        self._load(found)
        log.info("Resumed %s at epoch %d, step %d.", found, self.progress.epoch, self.progress.step)

    def _load(self, folder: Path) -> None:
        value = checkpoints.load(folder, self.task.tables, self.task.dense, self.adam)
        self.metrics = value.pop("metrics")
        self.progress = Progress(**value)

    def _save(self, name: str) -> None:
        value: dict[str, Any] = {**asdict(self.progress), "metrics": self.metrics}
        checkpoints.save(
            self.folder / name, self.task.tables, self.task.dense, self.adam, value, self.process
        )

    def _broadcast(self) -> None:
        """Start every process from the dense values of the first."""
        if self.process.world_size > 1:
            for value in itertools.chain(self.task.dense.parameters(), self.task.dense.buffers()):
                dist.broadcast(value.detach(), src=0)

    def _epoch(self) -> None:
        progress, total = self.progress, self.batches_per_epoch
        batches = itertools.islice(self.task.batches(progress.epoch), progress.batch, total)
        bar = tqdm(
            batches,
            desc=f"epoch {progress.epoch + 1}/{self.loop.epochs}",
            initial=progress.batch,
            total=total,
            disable=None if self.process.is_first else True,
            leave=False,
        )
        self.task.dense.train()
        for batch in bar:
            self._step(batch)
            progress.batch += 1
            self._between_steps()
        self.progress.epoch, self.progress.batch = progress.epoch + 1, 0
        self._end_epoch()

    def _step(self, batch: Batch) -> None:
        factor = self._rate(self.progress.step)
        for group in self.adam.param_groups:
            group["lr"] = self.optimizer.dense_lr * factor
        self.task.tables.scale_lr(factor)
        self.adam.zero_grad()
        loss = self.task.loss(batch, self.progress.step)
        loss.backward()
        self._average_gradients()
        if self.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.task.dense.parameters(), self.optimizer.clip_norm)
        self.adam.step()
        self.progress.step += 1
        self._losses.append(loss.detach())

    def _rate(self, step: int) -> float:
        """Factor of the learning rates at a step."""
        warm = self.optimizer.warmup_steps
        rise = min(1.0, (step + 1) / warm) if warm else 1.0
        if self.optimizer.schedule is Schedule.constant:
            return rise
        return rise * max(0.0, 1.0 - step / (self.loop.epochs * self.batches_per_epoch))

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
            if self.process.any(self.run.stop_asked):
                self._save(f"step-{step}")
                raise Stopped
        if self.loop.checkpoint_every and step % self.loop.checkpoint_every == 0:
            self._save(f"step-{step}")
            checkpoints.prune(self.folder, self.loop.keep_checkpoints, self.process)

    def _report(self) -> None:
        if not self._losses:
            return
        loss = self.process.mean(float(torch.stack(self._losses).mean()))
        now = time.monotonic()
        rate = len(self._losses) / max(now - self._since, 1e-9)
        self._losses, self._since = [], now
        self.run.record(self.progress.step, "train", {"loss": loss, "steps_per_s": rate})
        log.info("step %d: loss %.4f, %.1f steps/s", self.progress.step, loss, rate)

    def _end_epoch(self) -> None:
        self._report()
        last = self.progress.epoch == self.loop.epochs
        every = self.loop.evaluate_every
        if last or (every and self.progress.epoch % every == 0):
            self._evaluate()
        self._save(f"step-{self.progress.step}")
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
            self._save("best")

    def _out_of_patience(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        watched = self.loop.patience > 0 and self.progress.best is not None
        return watched and waited >= self.loop.patience
