"""What the models share that train one vector a user and one an item in TorchRec's tables.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (2009); Liang et al.,
"Variational Autoencoders for Collaborative Filtering" (2018): the multinomial likelihood.
Shapes: B sessions, C candidate items, T targets, V width of the vectors.
"""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.schema import Schema
from feature_repo.contract.tables import Tables
from retrieval.sources import FactorSource
from trainer.config import RunConfig
from trainer.data import SessionBatch, SessionReader
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig
from trainer.factor_config import FactorLoss, FactorModelConfig
from trainer.fitted import FOLDER, write_fitted
from trainer.judge import judge_source
from trainer.loop import Trainer
from trainer.losses import sampled_softmax
from trainer.negatives import drawn_items, log_inclusion
from trainer.runs import Run
from trainer.sets import (
    RATING,
    SERVICE,
    TARGET,
    TrainingSet,
    fit_encoder,
    judged_users,
    target_counts,
)
from trainer.sharding import Load
from trainer.step import StepInputs

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_PAIRS = 1 << 20
"""More than the targets that one session has."""


class FactorTask(ABC):
    """A factor model, its data and its loss, for ``trainer.loop``."""

    def __init__(
        self,
        config: RunConfig,
        model: FactorModelConfig,
        dataset: Dataset,
        sessions: TrainingSet,
        process: Process,
        folder: Path,
        judged: pa.Table | None = None,
    ) -> None:
        """Fit the vocabularies and make the tables; see ``TwoTowerTask``.

        Raises:
            ArtifactError: ratings are asked for, and the sessions have none.
        """
        self.model = model
        self.process = process
        self.seed = config.seed
        self.folder = folder
        self.judged = judged
        self.explicit = model.loss is FactorLoss.squared
        ids_only = replace(sessions, schema=Schema(sessions.schema.service, ()))
        if self.explicit and RATING not in sessions.users.schema_arrow.names:
            raise ArtifactError(
                f"model.loss=squared needs ratings; {sessions.path} has no column {RATING}."
            )
        self.encoder = fit_encoder(ids_only, dataset, model.min_buyers, history_length=1)
        counts = target_counts(sessions, self.encoder.items).astype(np.float64)
        counts[0] = 0.0
        self.share = counts / max(counts.sum(), 1.0)
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
            ratings=self.explicit,
        )
        self.tables = self._tables(config, int(counts.sum()))
        torch.manual_seed(config.seed)
        self._make_dense(sessions)

    def _tables(self, config: RunConfig, num_targets: int) -> ShardedTables:
        dims = {"user_id": self.width, "item_id": self.width}
        tables = TableConfig.of_specs(self.encoder.tables(), dims, self.width, config.optimizer)
        size = config.trainer.batch_size
        targets = size * num_targets // max(int(self.reader.num_rows), 1)
        examples = size + min(targets + self._drawn, self.encoder.items.num_rows)
        return ShardedTables(
            tables,
            self.process,
            config.sharding,
            Load(self.process.largest_share(examples), {}),
            seed=config.seed,
            eps=config.optimizer.table_eps,
            weighted=False,
        )

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of a row of the tables."""

    @property
    @abstractmethod
    def dense(self) -> nn.Module:
        """See ``Task``."""

    @abstractmethod
    def _make_dense(self, sessions: TrainingSet) -> None:
        """Make what trains beside the tables."""

    @abstractmethod
    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``."""

    @abstractmethod
    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""

    @abstractmethod
    def source_of(self, rows_UD: Tensor, rows_RD: Tensor) -> FactorSource:
        """The model as it is, from the rows of both tables."""

    @property
    def _drawn(self) -> int:
        found = self.model.num_negatives
        return self.encoder.items.num_rows if found is None else found

    def num_batches(self) -> int:
        """See ``Task``."""
        return self.reader.num_batches()

    def batches(self, epoch: int, first: int) -> Iterator[SessionBatch]:
        """See ``Task``."""
        return self.reader.batches(epoch, first)

    def _arrays(
        self, batch: SessionBatch, items: Ints, num_targets: int, pairs: Ints
    ) -> dict[str, npt.NDArray[np.generic]]:
        owners = np.repeat(np.arange(len(batch)), np.diff(batch.targets.offsets))
        weight = self.process.world_size / max(num_targets, 1)
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "owner": owners,
            "place": np.searchsorted(items, batch.targets.values),
            "weight": np.full(len(owners), weight, dtype=np.float32),
            "log_q": self._log_q(items, num_targets),
            "pairs": np.searchsorted(items, pairs),
        }
        if batch.ratings is not None:
            arrays["rating"] = batch.ratings
        return arrays

    def _pairs(self, batch: SessionBatch, step: int) -> Ints:
        """[T, N] items that each target is set against, for BPR; [T, 0] else."""
        if self.model.loss is not FactorLoss.bpr:
            return np.zeros((len(batch.targets.values), 0), dtype=np.int64)
        sizes = np.diff(batch.targets.offsets)
        owner = np.repeat(np.arange(len(batch)) + batch.first, sizes)
        within = np.arange(len(owner)) - np.repeat(batch.targets.offsets[:-1], sizes)
        place = (owner * _PAIRS + within)[:, None] * self._drawn + np.arange(self._drawn)
        rows = drawn_items(self.seed, step, place.ravel(), self.encoder.items.num_rows)
        return rows.reshape(place.shape)

    def _candidates(self, targets: Ints, pairs: Ints, step: int) -> Ints:
        """[C] rising item rows that are looked up."""
        if not self.model.sampled:
            return np.unique(np.concatenate([targets, pairs]))
        if self.model.num_negatives is None:
            return np.arange(1, self.encoder.items.num_rows, dtype=np.int64)
        places = np.arange(self._drawn, dtype=np.int64)
        negatives = drawn_items(self.seed, step, places, self.encoder.items.num_rows)
        return np.unique(np.concatenate([targets, negatives]))

    def _log_q(self, items: Ints, num_targets: int) -> Floats:
        """[C] log of the probability that an item is a candidate, times the strength."""
        if self.model.num_negatives is None or not self.model.sampled:
            return np.zeros(len(items), dtype=np.float32)
        num_rows = self.encoder.items.num_rows
        return log_inclusion(self.share[items], num_targets, self._drawn, num_rows, self.model.logq)

    def _penalty(self, users: Tensor, items: Tensor) -> Tensor:
        lengths: Tensor = users.square().sum(dim=1).mean() + items.square().sum(dim=1).mean()
        return self.model.l2 * lengths

    def loss(self, users_BV: Tensor, items_CV: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The loss of the targets, on average; summed over a process's own."""
        owner, place, weight = tensors["owner"], tensors["place"], tensors["weight"]
        users_BV = F.dropout(users_BV, self.model.dropout, self.dense.training)
        if self.model.loss is FactorLoss.softmax:
            return sampled_softmax(
                users_BV, items_CV, owner, place, tensors["log_q"], self.model.temperature, weight
            )
        if self.model.loss is FactorLoss.multinomial:
            logits_BC = users_BV @ items_CV.T / self.model.temperature - tensors["log_q"]
            log_shares_BC = torch.log_softmax(logits_BC.float(), dim=1)
            return -(log_shares_BC[owner, place] * weight).sum()
        users_TV = users_BV[owner]
        scores_T = (users_TV * items_CV[place]).sum(dim=1)
        if self.model.loss is FactorLoss.squared:
            return ((scores_T - tensors["rating"]).square() * weight).sum()
        others_TN = torch.einsum("tv,tnv->tn", users_TV, items_CV[tensors["pairs"]])
        return (F.softplus(others_TN - scores_T[:, None]).mean(dim=1) * weight).sum()

    def _read(self, folder: Path) -> FactorSource:
        """The model whose tables were exported into ``folder``."""
        tables = Tables.load(folder).tables
        users, items = (
            torch.from_numpy(np.array(tables[name].values)).to(self.process.device)
            for name in ("user_id", "item_id")
        )
        with torch.no_grad():
            return self.source_of(users, items)

    def evaluate(self) -> dict[str, float]:
        """Of the judged users: recall and NDCG of new items, or the error of their ratings."""
        if self.judged is None:
            return {}
        folder = self.folder / "evaluation"
        self.tables.export_tables(folder)
        found: dict[str, float] = {}
        if self.process.is_first:
            source = self._read(folder)
            if self.explicit:
                found = {"rmse": rating_error(source, self.judged, self.encoder)}
            else:
                found = judge_source(source, self.judged, self.encoder)
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


def rating_error(source: FactorSource, judged: pa.Table, encoder: Encoder) -> float:
    """Root mean squared error of the judged ratings; of unknown users and items, the mean's."""
    ids, offsets = list_column(judged, TARGET)
    ratings = np.asarray(list_column(judged, RATING)[0], dtype=np.float64)
    users = encoder.users.rows(judged.column("user_id"))
    scores = predicted(source, np.repeat(users, np.diff(offsets)), encoder.items.rows(ids))
    return float(np.sqrt(np.square(scores - ratings).mean()))


def predicted(source: FactorSource, users: Ints, items: Ints) -> Floats:
    """[N] predicted ratings of pairs; an unknown user or item adds nothing to the mean."""
    found = np.empty(len(users), dtype=np.float32)
    for start in range(0, len(users), 1 << 16):
        part = slice(start, start + (1 << 16))
        products = source.user_vectors[users[part]] * source.item_vectors[items[part]]
        found[part] = products.sum(axis=1)
    return found


def train(
    kind: type[FactorTask], config: RunConfig, model: FactorModelConfig, process: Process
) -> Path:
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
