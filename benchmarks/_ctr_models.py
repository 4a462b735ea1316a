"""What ``benchmarks.ctr`` trains: factorisation machines, and the networks of ``ranking``.

An example is a request of one candidate: the networks are those that rank, with embedding tables
of plain torch. B examples, F fields, D width of a field's vector, C rows of one-hot codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._ctr_data import ITEM_FIELDS, USER_FIELDS, Ctr, Side
from ranking.dcn_v2 import Beside, CrossLayers
from ranking.network import NetworkConfig, PairInputs, SideInputs, Widths, hidden_layers
from ranking.rankers import make_network
from ranking.wide_deep import WideDeepConfig


@dataclass(frozen=True)
class Shape:
    """What all models have; of itself, a factorisation machine."""

    dim: int = 16
    """D"""
    init_std: float = 0.05
    """Standard deviation of the vectors' first values."""


@dataclass(frozen=True)
class RankerShape(Shape):
    """A ranker's network; its wide side reads the fields' codes."""

    network: NetworkConfig = field(default_factory=WideDeepConfig)


@dataclass(frozen=True)
class CrossShape(Shape):
    """Cross layers beside hidden layers, both over all vectors side by side."""

    depth: int = 2
    """Cross layers."""
    hidden: tuple[int, ...] = (128, 64)
    """Widths of the hidden layers."""
    dropout: float = 0.0
    """Share of hidden values set to zero in training."""


class Rows(NamedTuple):
    """B examples."""

    user: Tensor
    """[B] int64"""
    item: Tensor
    """[B] int64"""


class Vectors(nn.Module):
    """One vector a field of a user, or of an item."""

    def __init__(self, side: Side, fields: tuple[str, ...], shape: Shape) -> None:
        super().__init__()
        self.fields = fields
        self.tables = nn.ModuleList()
        for name, size in zip(fields, side.sizes(fields), strict=True):
            table = _table(name, size, shape.dim)
            nn.init.normal_(table.weight, std=shape.init_std)
            self.tables.append(table)
            self.register_buffer(name, torch.from_numpy(side.codes[name]), persistent=False)

    def forward(self, rows_B: Tensor) -> Tensor:
        """[B, F, D]"""
        found = [
            table(getattr(self, name)[rows_B])
            for name, table in zip(self.fields, self.tables, strict=True)
        ]
        return torch.stack(found, dim=1)


def _table(name: str, size: int, dim: int) -> nn.Embedding | nn.EmbeddingBag:
    if name == "genres":  # a film has several: the mean of their vectors, as in AutoInt
        return nn.EmbeddingBag(size, dim, mode="mean", padding_idx=0)
    return nn.Embedding(size, dim)


class OneHot(nn.Module):
    """The fields' codes as rows of one table."""

    def __init__(self, ctr: Ctr, fields: tuple[str, ...]) -> None:
        super().__init__()
        codes = {**ctr.users.codes, **ctr.items.codes}
        self.fields = fields
        sizes = [int(codes[name].max()) + 1 for name in fields]
        self.starts = [int(start) for start in np.cumsum([0, *sizes])]
        for name in fields:
            self.register_buffer(name, torch.from_numpy(codes[name]), persistent=False)

    @property
    def num_rows(self) -> int:
        """Of the table."""
        return self.starts[-1]

    def forward(self, rows: Rows) -> Tensor:
        """[B, C] int64; several columns for a field of several codes."""
        found = []
        for name, start in zip(self.fields, self.starts[:-1], strict=True):
            codes = getattr(self, name)[rows.user if name in USER_FIELDS else rows.item]
            found.append(codes.reshape(len(codes), -1) + start)
        return torch.cat(found, dim=1)


class CtrModel(nn.Module, ABC):
    """A model of examples."""

    def __init__(self, ctr: Ctr, fields: tuple[str, ...], shape: Shape) -> None:
        super().__init__()
        of_users = tuple(name for name in fields if name in USER_FIELDS)
        of_items = tuple(name for name in fields if name in ITEM_FIELDS)
        self.user_vectors = Vectors(ctr.users, of_users, shape)
        self.item_vectors = Vectors(ctr.items, of_items, shape)

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """[B] logits, and the mean over the examples of their vectors' squared length."""
        users_BFD, items_BFD = self.user_vectors(rows.user), self.item_vectors(rows.item)
        length = (users_BFD.square().sum() + items_BFD.square().sum()) / len(rows.user)
        return self.logits(users_BFD, items_BFD, rows), length

    @abstractmethod
    def logits(self, users_BFD: Tensor, items_BFD: Tensor, rows: Rows) -> Tensor:
        """[B]"""


class Fm(CtrModel):
    """Rendle, "Factorization Machines" (2010), of order two."""

    def __init__(self, ctr: Ctr, fields: tuple[str, ...], shape: Shape) -> None:
        super().__init__(ctr, fields, shape)
        self.one_hot = OneHot(ctr, fields)
        self.weights = nn.EmbeddingBag(self.one_hot.num_rows, 1, mode="sum")
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.weights.weight)

    def logits(self, users_BFD: Tensor, items_BFD: Tensor, rows: Rows) -> Tensor:
        """See ``CtrModel``."""
        vectors_BFD = torch.cat([users_BFD, items_BFD], dim=1)
        squares_BD = vectors_BFD.sum(dim=1).square() - vectors_BFD.square().sum(dim=1)
        linear: Tensor = self.weights(self.one_hot(rows)).squeeze(1)
        return self.bias + linear + squares_BD.sum(dim=1) / 2


class Ranker(CtrModel):
    """A ranker's network over requests of one candidate each."""

    def __init__(self, ctr: Ctr, fields: tuple[str, ...], shape: RankerShape) -> None:
        super().__init__(ctr, fields, shape)
        self.one_hot = OneHot(ctr, fields)
        widths = Widths(
            user=len(self.user_vectors.fields) * shape.dim,
            item=len(self.item_vectors.fields) * shape.dim,
            user_columns=0,
            item_columns=0,
            pair_columns=0,
            buckets=1,
            wide_rows=self.one_hot.num_rows,
        )
        self.network = make_network(shape.network, widths)

    def logits(self, users_BFD: Tensor, items_BFD: Tensor, rows: Rows) -> Tensor:
        """See ``CtrModel``."""
        size = len(rows.user)
        codes, scores = rows.user.new_zeros((size, 0)), users_BFD.new_zeros((size, 0))
        place = torch.arange(size)
        found: Tensor = self.network(
            self.network.users(SideInputs(users_BFD.flatten(1), codes, scores)),
            self.network.items(SideInputs(items_BFD.flatten(1), codes, scores)),
            PairInputs(place, place, codes, scores, self.one_hot(rows)),
        )
        return found.squeeze(1)


class Cross(CtrModel):
    """Wang et al., "DCN V2" (2021), of the parallel structure, which they found best here.

    It is made of the parts of ``ranking.dcn_v2``; the ranker itself has a projection before them.
    """

    def __init__(self, ctr: Ctr, fields: tuple[str, ...], shape: CrossShape) -> None:
        super().__init__(ctr, fields, shape)
        width = len(fields) * shape.dim
        deep = nn.Sequential(
            nn.Linear(width, shape.hidden[0]), *hidden_layers(shape.hidden, shape.dropout)
        )
        self.body = Beside(CrossLayers(width, shape.depth), deep)
        self.head = nn.Linear(width + shape.hidden[-1], 1)

    def logits(self, users_BFD: Tensor, items_BFD: Tensor, rows: Rows) -> Tensor:
        """See ``CtrModel``."""
        inputs = torch.cat([users_BFD.flatten(1), items_BFD.flatten(1)], dim=1)
        found: Tensor = self.head(self.body(inputs))
        return found.squeeze(1)


def make_model(ctr: Ctr, fields: tuple[str, ...], shape: Shape) -> CtrModel:
    """A model of first values, which follow torch's seed."""
    match shape:
        case RankerShape():
            return Ranker(ctr, fields, shape)
        case CrossShape():
            return Cross(ctr, fields, shape)
        case _:
            return Fm(ctr, fields, shape)
