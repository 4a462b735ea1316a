"""Wide & Deep (Cheng et al., 2016) over the candidates of a request, as plain torch.

B requests, I items, N candidates of all requests, F numeric columns, C crosses, D width of all
pooled rows, H hidden units of the first layer. Embedding tables are not part of the module: their
pooled rows come in, from sharded tables in training and from exported ones in serving.

The first layer is a sum of three parts (user, item, candidate), which equals one layer over their
concatenation; the item's part can so be computed once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from feature_repo.contract.errors import ConfigError


@dataclass
class WideDeepConfig:
    """The shape of a Wide & Deep ranker."""

    id_dim: int = 16
    """Width of the id tables."""
    feature_dim: int = 8
    """Width of the tables of the other user and item features."""
    without: list[str] = field(default_factory=lambda: ["user_id"])
    """User and item features of tables (ids, categorical ones, bags) that are not read."""
    bucket_dim: int = 8
    """Width of the vector of a numeric column's bucket."""
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the hidden layers of the deep side."""
    dropout: float = 0.1
    """Share of hidden values set to zero in training."""
    one_hot: bool = True
    """Whether the wide side has a row for every bucket of every column of a pair."""
    crosses: list[list[str]] = field(default_factory=list)
    """Tuples of features (numeric columns, user and item features) that the wide side crosses."""
    max_cross_rows: int = 65_536
    """Rows of a cross; one with more combinations is hashed."""
    history_length: int = 50
    """Items of the history that the deep side reads, most recent first."""

    def __post_init__(self) -> None:
        for name in ("id_dim", "feature_dim", "bucket_dim"):
            value = getattr(self, name)
            if value <= 0 or value % 4:
                raise ConfigError(f"{name} must be a multiple of 4 above zero; got {value}.")
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden must hold widths above zero; got {self.hidden}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1); got {self.dropout}.")
        for name in ("max_cross_rows", "history_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be above zero; got {getattr(self, name)}.")


class Widths(NamedTuple):
    """Sizes that follow from the data."""

    user: int
    """Width of a user's pooled features."""
    item: int
    user_columns: int
    """Numeric features of a user."""
    item_columns: int
    pair_columns: int
    buckets: int
    """Most buckets of a numeric column, "missing" included."""
    wide_rows: int


class SideInputs(NamedTuple):
    """Model inputs of B users, or of I items."""

    pooled: Tensor
    """[B, D] pooled rows of the features' tables, side by side."""
    codes: Tensor
    """[B, F] int64 buckets of the numeric features."""
    scores: Tensor
    """[B, F] float32 normal scores of the numeric features."""


class PairInputs(NamedTuple):
    """Model inputs of N candidates beside their user's and item's own."""

    user_of: Tensor
    """[N] int64, row of the users given."""
    item_of: Tensor
    """[N] int64, row of the items given."""
    codes: Tensor
    """[N, F] int64 buckets of the numeric columns."""
    scores: Tensor
    """[N, F] float32 normal scores of the numeric columns."""
    wide: Tensor
    """[N, C] int64 rows of the wide side."""


class Numbers(nn.Module):
    """Numeric columns: a vector for each one's bucket, and its normal score."""

    offsets: Tensor

    def __init__(self, columns: int, buckets: int, dim: int) -> None:
        super().__init__()
        self.width = columns * (dim + 1)
        self.vectors = nn.Embedding(max(columns, 1) * buckets, dim)
        nn.init.normal_(self.vectors.weight, std=0.05)
        self.register_buffer("offsets", torch.arange(columns) * buckets, persistent=False)

    def forward(self, codes_NF: Tensor, scores_NF: Tensor) -> Tensor:
        """[N, F * (dim + 1)]"""
        return torch.cat([self.vectors(codes_NF + self.offsets).flatten(1), scores_NF], dim=1)


class WideDeep(nn.Module):
    """A linear model over crosses plus a network over embeddings; both are trained together."""

    def __init__(self, config: WideDeepConfig, widths: Widths) -> None:
        super().__init__()
        first, dim = config.hidden[0], config.bucket_dim
        self.wide = nn.EmbeddingBag(max(widths.wide_rows, 1), 1, mode="sum")
        self.user_numbers = Numbers(widths.user_columns, widths.buckets, dim)
        self.item_numbers = Numbers(widths.item_columns, widths.buckets, dim)
        self.pair_numbers = Numbers(widths.pair_columns, widths.buckets, dim)
        self.user_layer = nn.Linear(widths.user + self.user_numbers.width, first)
        self.item_layer = nn.Linear(widths.item + self.item_numbers.width, first, bias=False)
        self.pair_layer = nn.Linear(self.pair_numbers.width, first, bias=False)
        self.rest = _network([*config.hidden, 1], config.dropout)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.zeros_(self.wide.weight)
        layers = (self.user_layer, self.item_layer, self.pair_layer)
        bound = sum(layer.in_features for layer in layers) ** -0.5  # as one layer over all inputs
        for layer in layers:
            nn.init.uniform_(layer.weight, -bound, bound)

    def wide_parameters(self) -> list[nn.Parameter]:
        """Parameters of the wide side, which have an optimiser of their own."""
        return list(self.wide.parameters())

    def deep_parameters(self) -> list[nn.Parameter]:
        """All others."""
        wide = {id(parameter) for parameter in self.wide_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in wide]

    def users(self, users: SideInputs) -> Tensor:
        """[B, H] the users' part of the first layer."""
        numbers = self.user_numbers(users.codes, users.scores)
        hidden: Tensor = self.user_layer(torch.cat([users.pooled, numbers], dim=1))
        return hidden

    def items(self, items: SideInputs) -> Tensor:
        """[I, H] the items' part of the first layer."""
        numbers = self.item_numbers(items.codes, items.scores)
        hidden: Tensor = self.item_layer(torch.cat([items.pooled, numbers], dim=1))
        return hidden

    def forward(self, users_BH: Tensor, items_IH: Tensor, pairs: PairInputs) -> Tensor:
        """[N] logits: higher is better among the candidates of one request."""
        own = self.pair_layer(self.pair_numbers(pairs.codes, pairs.scores))
        hidden = users_BH[pairs.user_of] + items_IH[pairs.item_of] + own
        logits: Tensor = self.rest(hidden).squeeze(1)
        if pairs.wide.shape[1]:
            logits = logits + self.wide(pairs.wide).squeeze(1)
        return logits


def _network(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """What follows the sum that is the first layer."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, following)]
    return nn.Sequential(*layers)
