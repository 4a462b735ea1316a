"""Training LightGCN: vectors of all nodes, propagated over the user-item graph in every step.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
(2020). The vectors are TorchRec's tables; each process looks up its share of all nodes, and all
propagate the whole graph, which must fit in memory ((U + R) x D floats a layer, 12 bytes an edge
and direction): for graphs of some millions of nodes. Larger ones are GraphSAGE's.
Shapes: U rows of users, R of items, D width of the vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.encoding import Bag, Encoder
from retrieval.graph import Graph
from retrieval.sources import FactorSource
from trainer.config import name_of
from trainer.data import SessionBatch
from trainer.distributed import gather_rows
from trainer.embeddings import stack
from trainer.factor_config import LightGcnConfig
from trainer.factors import FactorTask
from trainer.sets import TARGET, TrainingSet
from trainer.step import StepInputs

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Layers(nn.Module):
    """How much each layer counts; the graph is kept with it, but is no parameter."""

    def __init__(self, graph: Graph, num_layers: int) -> None:
        super().__init__()
        self.graph = graph
        self.logits = nn.Parameter(torch.zeros(num_layers + 1))

    @property
    def weights(self) -> Tensor:
        """[K + 1] that sum to 1; equal at first."""
        return torch.softmax(self.logits, dim=0)

    def forward(self, users_UD: Tensor, items_RD: Tensor) -> tuple[Tensor, Tensor]:
        """[U, D] and [R, D] over all layers."""
        return self.graph.propagate(users_UD, items_RD, self.weights)


class LightGcnTask(FactorTask):
    """LightGCN, its data and its loss, for ``trainer.loop``."""

    @property
    def width(self) -> int:
        """D"""
        return self.model.dim

    @property
    def num_nodes(self) -> tuple[int, int]:
        """U and R"""
        return self.encoder.users.num_rows, self.encoder.items.num_rows

    @property
    def dense(self) -> Layers:
        """See ``Task``."""
        return self._layers

    def _make_dense(self, sessions: TrainingSet) -> None:
        assert isinstance(self.model, LightGcnConfig)
        graph = Graph.of(*edges(sessions, self.encoder), *self.num_nodes)
        layers = Layers(graph.to(self.process.device), self.model.layers)
        self._layers = layers.to(self.process.device)

    def prepare(self, batch: SessionBatch, step: int) -> StepInputs:
        """See ``Task``; each process looks up its share of all nodes."""
        targets = self.process.together(batch.targets.values)
        pairs = self._pairs(batch, step)
        items = self._candidates(targets, self.process.together(pairs.ravel()), step)
        rows = [np.arange(size, dtype=np.int64) for size in self.num_nodes]
        users, others = (part[self.process.share_of(len(part))] for part in rows)
        arrays = self._arrays(batch, items, len(targets), pairs)
        arrays |= {"user_row": batch.users.bags["user_id"].values, "item_row": items}
        stride = sum(self.process.largest_share(size) for size in self.num_nodes)
        bags = stack({"user_id": Bag.single(users)}, {"item_id": Bag.single(others)})
        return StepInputs(
            self.tables.features(bags, stride),
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            {"examples": batch.total, "users": len(users), "items": len(others)},
        )

    def head(self, pooled: dict[str, Tensor], inputs: StepInputs) -> Tensor:
        """See ``Task``."""
        split, num = inputs.sizes["users"], inputs.sizes["items"]
        num_users, num_items = self.num_nodes
        users_UD = gather_rows(pooled["user_id"][:split], num_users, self.process)
        items_RD = gather_rows(pooled["item_id"][split : split + num], num_items, self.process)
        users, items = self.dense(users_UD, items_RD)
        at_users, at_items = inputs.tensors["user_row"], inputs.tensors["item_row"]
        found = self.loss(users[at_users], items[at_items], inputs.tensors)
        if not self.model.l2:
            return found
        return found + self._penalty(users_UD[at_users], items_RD[at_items])

    def source_of(self, rows_UD: Tensor, rows_RD: Tensor) -> FactorSource:
        """See ``FactorTask``; a stranger's vector is what its items hand on over all layers."""
        users, items = (found.cpu().numpy() for found in self.dense(rows_UD, rows_RD))
        _, handed = self.dense.graph.propagate(rows_UD, rows_RD, self.dense.weights[1:])
        degrees = np.maximum(self.dense.graph.item_degrees, 1)
        scale = torch.from_numpy(degrees).float().rsqrt()
        fold_in = (handed.cpu() * scale[:, None]).numpy()
        users[0] = items[0] = fold_in[0] = 0.0
        return FactorSource(name_of(self.model), users, items, fold_in, new_only=True)


def edges(sessions: TrainingSet, encoder: Encoder) -> tuple[Ints, Ints]:
    """User and item rows of every target of a set; unknown items are left out."""
    users, items = [], []
    for chunk in sessions.chunks(["user_id", TARGET]):
        ids, offsets = list_column(chunk, TARGET)
        rows = encoder.items.rows(ids)
        owners = np.repeat(encoder.users.rows(column_of(chunk, "user_id")), np.diff(offsets))
        users.append(owners[rows > 0])
        items.append(rows[rows > 0])
    return np.concatenate(users), np.concatenate(items)
