"""What the models of user and item ids alone share: their sessions, their judgement, their export.

Such a model reads no feature, so that its tables and a few dense values are all of it: it is judged
and exported as a source that holds what was made of them.
"""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.schema import Schema
from feature_repo.contract.tables import Tables
from retrieval.sources import Source
from trainer.config import RunConfig
from trainer.data import SessionBatch, SessionReader
from trainer.distributed import Process
from trainer.embeddings import ShardedTables
from trainer.fitted import FOLDER, write_fitted
from trainer.judge import judge_source
from trainer.loop import Trainer
from trainer.model_config import ModelConfig
from trainer.runs import Run
from trainer.sets import SERVICE, TrainingSet, fit_encoder, judged_users
from trainer.step import StepInputs

log = logging.getLogger(__name__)

Found = TypeVar("Found", bound=Source)
Model = TypeVar("Model", bound=ModelConfig)


class IdTask(ABC, Generic[Found]):
    """A model of ids, its data and its loss, for ``trainer.loop``."""

    tables: ShardedTables
    """See ``Task``; set by the model."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        sessions: TrainingSet,
        process: Process,
        folder: Path,
        judged: pa.Table | None,
        *,
        min_buyers: int,
        ratings: bool = False,
    ) -> None:
        """Fit the vocabularies; see ``TwoTowerTask``."""
        self.process = process
        self.seed = config.seed
        self.folder = folder
        self.judged = judged
        ids_only = replace(sessions, schema=Schema(sessions.schema.service, ()))
        self.encoder = fit_encoder(ids_only, dataset, min_buyers, history_length=1)
        self.reader = SessionReader(
            ids_only,
            self.encoder,
            process,
            batch_size=config.trainer.batch_size,
            half_life_days=dataset.half_life_days,
            seed=config.seed,
            cache=config.trainer.cache_encoded,
            streams=config.trainer.streams,
            shuffle_rows=config.trainer.shuffle_rows,
            ratings=ratings,
        )

    @property
    @abstractmethod
    def dense(self) -> nn.Module:
        """See ``Task``."""

    @abstractmethod
    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``."""

    @abstractmethod
    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""

    @abstractmethod
    def source(self, tables: Mapping[str, Tensor]) -> Found:
        """The model as it is, from the rows of its tables, by their names."""

    def num_batches(self) -> int:
        """See ``Task``."""
        return self.reader.num_batches()

    def batches(self, epoch: int, first: int) -> Iterator[SessionBatch]:
        """See ``Task``."""
        return self.reader.batches(epoch, first)

    def measure(self, source: Found, judged: pa.Table) -> dict[str, float]:
        """Metrics of the judged users: recall and NDCG of items that are new to them."""
        return judge_source(source, judged, self.encoder)

    def _read(self, folder: Path) -> Found:
        """The model whose tables were exported into ``folder``."""
        found = Tables.load(folder).tables
        tables = {
            name: torch.from_numpy(np.array(table.values)).to(self.process.device)
            for name, table in found.items()
        }
        with torch.no_grad():
            return self.source(tables)

    def evaluate(self) -> dict[str, float]:
        """See ``Task`` and ``measure``; empty where nobody is judged."""
        if self.judged is None:
            return {}
        folder = self.folder / "evaluation"
        self.tables.export_tables(folder)
        found: dict[str, float] = {}
        if self.process.is_first:
            found = self.measure(self._read(folder), self.judged)
            shutil.rmtree(folder)
        return self.process.share(found)

    def export(self, target: Path) -> None:
        """Write the run's ``source/``; a collective: each process writes its rows of the tables."""
        folder = self.folder / "export"
        self.tables.export_tables(folder)
        if self.process.is_first:
            write_fitted(target, self._read(folder), self.encoder)
            shutil.rmtree(folder)
        self.process.barrier()


Kind = Callable[
    [RunConfig, Model, Dataset, TrainingSet, Process, Path, pa.Table | None], IdTask[Found]
]
"""How a model's task is made."""


def train(kind: Kind[Model, Found], config: RunConfig, model: Model, process: Process) -> Path:
    """Train, export, and return the run's folder; a finished run is not trained again."""
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    judged = judged_users(dataset, config.cutoff) if config.validate else None
    run = Run.open(config, {"sessions": sessions.digest}, process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    task = kind(config, model, dataset, sessions, process, run.folder, judged)
    metrics = Trainer(task, run, config.trainer, config.optimizer, process).train()
    task.export(run.folder / FOLDER)
    run.finish(metrics)
    return run.folder
