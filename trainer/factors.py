"""What the models share that train one vector a user and one an item in TorchRec's tables.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (2009); Liang et al.,
"Variational Autoencoders for Collaborative Filtering" (2018): the multinomial likelihood; Rendle et
al., "Neural Collaborative Filtering vs. Matrix Factorization Revisited" (2020): the logistic loss,
whose expectation over its draws is taken here.
Shapes: B sessions, C candidate items, T targets, V width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from retrieval.sources import FactorSource
from trainer.config import RunConfig
from trainer.data import SessionBatch
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig
from trainer.factor_config import FactorLoss, FactorModelConfig
from trainer.id_task import IdTask
from trainer.losses import sampled_softmax
from trainer.negatives import drawn_for_targets, drawn_items, log_inclusion
from trainer.sets import RATING, TARGET, TrainingSet, target_counts
from trainer.sharding import Load

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class FactorTask(IdTask[FactorSource]):
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
        self.explicit = model.loss is FactorLoss.squared
        if self.explicit and RATING not in sessions.users.schema_arrow.names:
            raise ArtifactError(
                f"model.loss=squared needs ratings; {sessions.path} has no column {RATING}."
            )
        super().__init__(
            config,
            dataset,
            sessions,
            process,
            folder,
            judged,
            min_buyers=model.min_buyers,
            ratings=self.explicit,
        )
        counts = target_counts(sessions, self.encoder.items).astype(np.float64)
        counts[0] = 0.0
        self.share = counts / max(counts.sum(), 1.0)
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

    @abstractmethod
    def _make_dense(self, sessions: TrainingSet) -> None:
        """Make what trains beside the tables."""

    @abstractmethod
    def source_of(self, rows_UD: Tensor, rows_RD: Tensor) -> FactorSource:
        """The model as it is, from the rows of both tables."""

    @property
    def _drawn(self) -> int:
        found = self.model.num_negatives
        return self.encoder.items.num_rows if found is None else found

    def source(self, tables: Mapping[str, Tensor]) -> FactorSource:
        """See ``IdTask``."""
        return self.source_of(tables["user_id"], tables["item_id"])

    def measure(self, source: FactorSource, judged: pa.Table) -> dict[str, float]:
        """See ``IdTask``; of explicit ratings their error."""
        if self.explicit:
            return {"rmse": rating_error(source, judged, self.encoder)}
        return super().measure(source, judged)

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
        num_rows = self.encoder.items.num_rows
        offsets = batch.targets.offsets
        return drawn_for_targets(self.seed, step, offsets, batch.first, self._drawn, num_rows)

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
        if self.model.loss is FactorLoss.logistic:
            return self._logistic(users_BV, items_CV, tensors)
        users_TV = users_BV[owner]
        scores_T = (users_TV * items_CV[place]).sum(dim=1)
        if self.model.loss is FactorLoss.squared:
            return ((scores_T - tensors["rating"]).square() * weight).sum()
        others_TN = torch.einsum("tv,tnv->tn", users_TV, items_CV[tensors["pairs"]])
        return (F.softplus(others_TN - scores_T[:, None]).mean(dim=1) * weight).sum()

    def _logistic(self, users_BV: Tensor, items_CV: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Binary cross-entropy of the targets, and of all items in expectation: an item among the
        candidates stands for those that were not drawn."""
        owner, weight = tensors["owner"], tensors["weight"]
        logits_BC = users_BV @ items_CV.T / self.model.temperature
        bought = (F.softplus(-logits_BC[owner, tensors["place"]]) * weight).sum()
        share_C = torch.exp(-tensors["log_q"]) / (self.encoder.items.num_rows - 1)
        others_B = F.softplus(logits_BC) @ share_C
        return bought + self.model.negative_weight * (others_B[owner] * weight).sum()


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
