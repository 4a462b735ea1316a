"""Training neural collaborative filtering: GMF and MLP first, then NeuMF, in one run.

He et al., "Neural Collaborative Filtering" (2017): each target and some items drawn anew in every
epoch, as a classification into bought and not bought. For ``pretrain_epochs`` both parts are
trained side by side, each by its own loss; they share no value, so that this is what two runs would
do. NeuMF's first logits are then the sum of theirs, weighted by ``alpha``, and the loss that of the
sum. The paper ends with plain SGD, for it had not kept Adam's moments; here they go on.

Each process looks up its own users and the distinct items of its targets and draws. Shapes: B
sessions, T targets, N drawn items a target, D width of GMF's vectors, M of MLP's, H of the first
hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.randomness import key, uniform
from retrieval.ncf import NeuMf
from retrieval.sources import NcfSource
from retrieval.sources.ncf import Layer
from trainer.config import RunConfig, name_of
from trainer.data import SessionBatch
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig, stack
from trainer.id_task import IdTask
from trainer.ncf_config import NcfConfig
from trainer.negatives import drawn_for_targets
from trainer.randomness import Stream
from trainer.sets import TrainingSet
from trainer.sharding import Load
from trainer.step import StepInputs

Ints = npt.NDArray[np.int64]

PARTS = ("gmf", "mlp")
IDS = ("user_id", "item_id")
"""Each part has a table of each: ``gmf_user_id`` and so on."""


class NcfTask(IdTask[NcfSource]):
    """NeuMF, its data and its losses, for ``trainer.loop``."""

    def __init__(
        self,
        config: RunConfig,
        model: NcfConfig,
        dataset: Dataset,
        sessions: TrainingSet,
        process: Process,
        folder: Path,
        judged: pa.Table | None = None,
    ) -> None:
        """Fit the vocabularies and make tables and network; see ``TwoTowerTask``.

        Raises:
            ConfigError: the run ends before its parts are trained as one.
        """
        if config.trainer.epochs <= model.pretrain_epochs:
            raise ConfigError(
                f"trainer.epochs={config.trainer.epochs} must be above model.pretrain_epochs="
                f"{model.pretrain_epochs}: NeuMF is trained in the epochs after them."
            )
        super().__init__(
            config, dataset, sessions, process, folder, judged, min_buyers=model.min_buyers
        )
        self.model = model
        steps = self.num_batches()
        if config.trainer.max_steps is not None:
            steps = min(steps, config.trainer.max_steps)
        self.pretrain_steps = model.pretrain_epochs * steps
        self.tables = self._tables(config)
        torch.manual_seed(config.seed)
        self._network = NeuMf(model.dim, model.mlp_dim, model.hidden, model.alpha, model.dropout)
        self._network.to(process.device)

    def _tables(self, config: RunConfig) -> ShardedTables:
        specs = {spec.name: spec for spec in self.encoder.tables()}
        named = {f"{part}_{name}": specs[name] for part in PARTS for name in IDS}
        tables = TableConfig.of_specs(
            [replace(spec, name=name, features=(name,)) for name, spec in named.items()],
            {f"gmf_{name}": self.model.dim for name in IDS},
            self.model.mlp_dim,
            config.optimizer,
        )
        users = self.process.largest_share(config.trainer.batch_size)
        load = Load(users + self.encoder.items.num_rows, {}, weighted=False)
        eps = config.optimizer.table_eps
        return ShardedTables(
            tables,
            self.process,
            config.sharding,
            load,
            seed=config.seed,
            eps=eps,
            weighted=False,
        )

    @property
    def dense(self) -> NeuMf:
        """See ``Task``."""
        return self._network

    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``."""
        targets = batch.targets
        sizes = np.diff(targets.offsets)
        num, num_rows = self.model.num_negatives, self.encoder.items.num_rows
        drawn = drawn_for_targets(self.seed, step, targets.offsets, batch.first, num, num_rows)
        pairs = np.concatenate([targets.values[:, None], drawn], axis=1)
        items, place = np.unique(pairs, return_inverse=True)
        (total,) = self.process.total(float(pairs.size))
        tensors = {
            "owner": torch.from_numpy(np.repeat(np.arange(len(batch)), sizes)),
            "place": torch.from_numpy(place.reshape(pairs.shape)),
            "weight": torch.tensor(self.process.world_size / max(total, 1.0)),
        }
        stride = self.process.max(len(batch) + len(items))
        bags = self._bags(self._hidden_users(batch, step), items)
        counts = {"examples": batch.total, "users": len(batch), "stop": len(batch) + len(items)}
        counts["pretraining"] = int(step < self.pretrain_steps)
        return StepInputs(self.tables.features(bags, stride), tensors, counts)

    def _hidden_users(self, batch: SessionBatch, step: int) -> Ints:
        """[B] rows of the sessions' users, a share of them replaced by "unknown"."""
        rows = batch.users.bags["user_id"].values
        places = batch.first + np.arange(len(batch))
        drawn = uniform(key(self.seed, Stream.USER_ID, step), places)
        return np.where(drawn < self.model.user_dropout, 0, rows)

    @staticmethod
    def _bags(users: Ints, items: Ints) -> dict[str, Bag]:
        return stack(
            {f"{part}_user_id": Bag.single(users) for part in PARTS},
            {f"{part}_item_id": Bag.single(items) for part in PARTS},
        )

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        split, stop = inputs.sizes["users"], inputs.sizes["stop"]
        users = [pooled[f"{part}_user_id"][:split] for part in PARTS]
        items = [pooled[f"{part}_item_id"][split:stop] for part in PARTS]
        gmf, mlp = self._logits(users, items, inputs.tensors["owner"], inputs.tensors["place"])
        logits = [gmf, mlp] if inputs.sizes["pretraining"] else [self.dense.neumf(gmf, mlp)]
        loss = torch.stack([classified(found) for found in logits]).mean()
        if self.model.l2:
            loss = loss + self.model.l2 * self._lengths(users, items, inputs.tensors)
        return loss * inputs.tensors["weight"]

    @staticmethod
    def _lengths(users: list[Tensor], items: list[Tensor], tensors: dict[str, Tensor]) -> Tensor:
        """Sum over all pairs of the squared lengths of their rows."""
        owner_T, place_TN = tensors["owner"], tensors["place"]
        users_B, items_C = (torch.cat(rows, dim=1).square().sum(dim=1) for rows in (users, items))
        return users_B[owner_T].sum() * place_TN.shape[1] + items_C[place_TN].sum()

    def _logits(
        self, users: list[Tensor], items: list[Tensor], owner_T: Tensor, place_TN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[T, 1 + N] logits of each part; the first column is the targets'."""
        network = self.dense
        weighted_TD = network.weighted(users[0])[owner_T, None]
        gmf = network.gmf(weighted_TD, F.embedding(place_TN, items[0]))
        hidden_TH = network.user_layer(users[1])[owner_T, None]
        return gmf, network.mlp(hidden_TH, F.embedding(place_TN, network.item_layer(items[1])))

    def source(self, tables: Mapping[str, Tensor]) -> NcfSource:
        """See ``IdTask``; ``alpha`` is multiplied into the layers that end each part."""
        network, alpha = self.dense, self.model.alpha
        users = network.weighted(tables["gmf_user_id"]) * alpha
        layers = [[layer.weight.T, layer.bias] for layer in network.linear_layers()]
        layers[-1] = [found * (1 - alpha) for found in layers[-1]]
        layers[-1][1] = layers[-1][1] + network.gmf_output.bias * alpha
        return NcfSource(
            name_of(self.model),
            users.cpu().numpy(),
            tables["gmf_item_id"].cpu().numpy(),
            network.user_layer(tables["mlp_user_id"]).cpu().numpy(),
            network.item_layer(tables["mlp_item_id"]).cpu().numpy(),
            tuple(Layer(*(found.detach().cpu().numpy() for found in layer)) for layer in layers),
            new_only=True,
        )


def classified(logits_TN: Tensor) -> Tensor:
    """Sum of the binary cross-entropies of all pairs, of which the first column is bought."""
    return F.softplus(-logits_TN[:, 0]).sum() + F.softplus(logits_TN[:, 1:]).sum()
