"""Training GraphSAGE: users and items as nodes whose vectors are made from their neighbours'.

Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large Graphs" (2017): a node's
vector comes from its own features beside the mean of a sample of its neighbours, so that new nodes
have one too. Ying et al., "Graph Convolutional Neural Networks for Web-Scale Recommender Systems"
(2018): an item's neighbours are the items that lie two steps away, weighted by how often a walk
gets there, which are those of item-kNN.

Two layers: an item's vector from its features and the features of M neighbours, a user's from its
features and the vectors of the items in its history. What is trained is exported as a two-tower
model whose history reads the item vectors. Shapes: B users, H history entries, D distinct items
of a step, C candidates, V width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, Encoded, TableSpec
from feature_repo.contract.randomness import key, uniform
from feature_repo.contract.schema import Entity
from feature_repo.contract.tables import TableFile, TableForm
from trainer.config import RunConfig
from trainer.data import SessionBatch
from trainer.distributed import Process, gather_rows
from trainer.embeddings import TableConfig, stack
from trainer.fitting import Fitting
from trainer.model_config import GraphSageModelConfig, TwoTowerModelConfig
from trainer.neighbours import fit_knn
from trainer.randomness import Stream
from trainer.sets import TrainingSet
from trainer.step import StepInputs
from trainer.two_tower import VECTORS, TwoTowerTask

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

HISTORY = "history_item_id"
NEIGHBOURS = "neighbour_item_id"
ITEM_VECTORS = "item_vectors"
"""Name of the exported table that histories read."""


@dataclass(frozen=True)
class Neighbours:
    """The item graph: M neighbours an item."""

    rows: npt.NDArray[np.int32]
    """[R, M] item rows; 0 pads."""
    weights: Floats
    """[R, M]"""

    def bag(self, items: Ints, kept: int, start: np.uint64 | None = None) -> Bag:
        """Up to ``kept`` neighbours of each item, their weights summing to 1.

        Args:
            items: rows.
            kept: of each.
            start: key that the sample is drawn by, the same for an item whoever draws it; None:
                the nearest ones.
        """
        rows, weights = self.rows[items], self.weights[items]
        if start is not None:
            places = items[:, None] * rows.shape[1] + np.arange(rows.shape[1])
            drawn = uniform(start, places.ravel()).reshape(rows.shape)
            order = np.argsort(np.where(rows > 0, drawn, 2.0), axis=1)
        else:
            order = np.argsort(np.where(rows > 0, -weights, 2.0), axis=1)
        rows = np.take_along_axis(rows, order[:, :kept], axis=1)
        weights = np.take_along_axis(weights, order[:, :kept], axis=1)
        filled = rows > 0
        totals = np.where(filled, weights, 0.0).sum(axis=1, keepdims=True)
        shares = np.where(filled, weights / np.maximum(totals, 1e-12), 0.0)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(filled.sum(axis=1))])
        return Bag(rows[filled].astype(np.int64), offsets, shares[filled].astype(np.float32))


class GraphSageTask(TwoTowerTask):
    """GraphSAGE, its data and its loss, for ``trainer.loop``."""

    model: GraphSageModelConfig

    def __init__(
        self,
        config: RunConfig,
        model: TwoTowerModelConfig,
        dataset: Dataset,
        sessions: TrainingSet,
        process: Process,
        folder: Path,
        judged: pa.Table | None = None,
    ) -> None:
        """Fit the item graph on the purchases before the cut-off; see ``TwoTowerTask``."""
        super().__init__(config, model, dataset, sessions, process, folder, judged)
        fitting = Fitting.before(dataset, dataset.edge(config.cutoff), sessions.items, self.encoder)
        graph = self.model.graph
        self.neighbours = Neighbours(
            *fit_knn(fitting.purchases, graph.transform, graph.shrink, graph.neighbours)
        )
        nearest = self.neighbours.bag(np.arange(self.encoder.items.num_rows), graph.neighbours)
        encoded = self.catalogue.encoded
        self.catalogue.encoded = Encoded({**encoded.bags, NEIGHBOURS: nearest}, encoded.dense)

    def _table_configs(self, config: RunConfig) -> tuple[TableConfig, ...]:
        ids = {"user_id": self.model.id_dim, "item_id": self.model.id_dim}
        specs = [self._spec(spec) for spec in self.encoder.tables()]
        return TableConfig.of_specs(specs, ids, self.model.feature_dim, config.optimizer)

    @staticmethod
    def _spec(spec: TableSpec) -> TableSpec:
        """A table whose rows neighbours read, where histories would."""
        if spec.name != "item_id":
            return spec
        features = tuple(name for name in spec.features if name != HISTORY)
        return replace(spec, features=(*features, NEIGHBOURS))

    def _features(self, entity: Entity) -> list[str]:
        found = list(self.encoder.keys(entity))
        return found if entity is Entity.USER else [*found, NEIGHBOURS]

    def _widths(self) -> dict[str, int]:
        return {**super()._widths(), HISTORY: self.model.dim}

    @property
    def _weighted(self) -> bool:
        return True

    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``; each process looks up its share of the candidates, and its histories."""
        items, arrays = self._compared(batch, step)
        mine = items[self.process.share_of(len(items))]
        users = self._forget(batch.users, "user_id", step, np.arange(len(batch)) + batch.first)
        history = users.bags[HISTORY]
        read = np.unique(history.values)
        read = read[read > 0]
        rows = np.concatenate([mine, read])
        shown = self._forget(self._sampled(rows, step), "item_id", step, rows)
        stride = self.process.max(len(batch) + len(rows))
        own = {name: bag for name, bag in users.bags.items() if name != HISTORY}
        arrays |= {"user_numbers": users.dense, "item_numbers": shown.dense}
        arrays |= _entries(history, read)
        return StepInputs(
            self.tables.features(stack(own, shown.bags), stride),
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            {"examples": batch.total, "users": len(batch), "mine": len(mine), "items": len(items)},
        )

    def _sampled(self, rows: Ints, step: int) -> Encoded:
        encoded = self.catalogue.encoded.take(rows)
        start = key(self.seed, Stream.NEIGHBOURS, step)
        sample = self.neighbours.bag(rows, self.model.graph.sampled, start)
        return Encoded({**encoded.bags, NEIGHBOURS: sample}, encoded.dense)

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        tensors, sizes = inputs.tensors, inputs.sizes
        split = sizes["users"]
        stop = split + len(tensors["item_numbers"])
        nodes_DV = self.dense.item_vectors(
            {name: pooled[name][split:stop] for name in self._features(Entity.ITEM)},
            tensors["item_numbers"],
        )
        read_HV = nodes_DV[sizes["mine"] :][tensors["entry"]] * tensors["entry_weight"][:, None]
        history_BV = nodes_DV.new_zeros(split, nodes_DV.shape[1])
        history_BV = history_BV.index_add(0, tensors["entry_owner"], read_HV)
        users = {
            name: history_BV if name == HISTORY else pooled[name][:split]
            for name in self._features(Entity.USER)
        }
        items = gather_rows(nodes_DV[: sizes["mine"]], sizes["items"], self.process)
        users_BV = self.dense.user_vectors(users, tensors["user_numbers"])
        return self._loss(users_BV, items, tensors)

    def export(self, folder: Path, form: TableForm = TableForm.fp32) -> None:
        """As ``TwoTowerTask.export``, and the item vectors as the table that histories read."""
        super().export(folder, form)
        if self.process.is_first:
            vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
            num_rows, dim = vectors.shape
            table = TableFile.create(folder / "tables", ITEM_VECTORS, num_rows, dim, form)
            table.write(0, 0, np.asarray(vectors))
            table.flush()
            owners = read_json(folder / "tables" / "tables.json")
            write_json(folder / "tables" / "tables.json", {**owners, HISTORY: ITEM_VECTORS})
        self.process.barrier()


def _entries(history: Bag, read: Ints) -> dict[str, npt.NDArray[np.generic]]:
    """[H] the history's known entries: whose they are, where among ``read``, and their weight."""
    known = history.values > 0
    owner = np.repeat(np.arange(len(history.offsets) - 1), np.diff(history.offsets))
    weights = np.ones(len(known), np.float32) if history.weights is None else history.weights
    return {
        "entry": np.searchsorted(read, history.values[known]),
        "entry_owner": owner[known],
        "entry_weight": weights[known],
    }
