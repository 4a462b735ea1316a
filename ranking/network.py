"""What all ranker networks are: plain torch over the candidates of a request.

B requests, I items, N candidates of all requests, F numeric columns, C crosses, D width of all
pooled rows, H width of the projection, T heads. Embedding tables are not part of the module: their
pooled rows come in, from sharded tables in training and from exported ones in serving.

A logit is a wide side, one weight a cross, plus a deep side: ``body`` and a linear ``head`` over a
projection of all inputs. The projection is a sum of three parts (user, item, candidate), which
equals one layer over their concatenation; the item's part can so be computed once and kept. Kinds
of rankers differ in their ``body``; ``ranking.rankers`` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from feature_repo.contract.errors import require


@dataclass
class NetworkConfig:
    """What every ranker reads, and how wide it is read."""

    id_dim: int = 16
    """Width of the id tables."""
    feature_dim: int = 8
    """Width of the tables of the other user and item features."""
    without: list[str] = field(default_factory=lambda: ["user_id"])
    """User and item features of tables (ids, categorical ones, bags) that are not read."""
    bucket_dim: int = 8
    """Width of the vector of a numeric column's bucket."""
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
            require(
                value > 0 and value % 4 == 0,
                f"{name} must be a multiple of 4 above zero; got {value}.",
            )
        for name in ("max_cross_rows", "history_length"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above zero; got {value}.")


def require_layers(hidden: Sequence[int], dropout: float) -> None:
    """Check the settings of ``hidden_layers``.

    Raises:
        ConfigError: there is no layer, or a width or the dropout is out of range.
    """
    require(
        len(hidden) > 0 and min(hidden) > 0, f"hidden must hold widths above zero; got {hidden}."
    )
    require(0 <= dropout < 1, f"dropout must be in [0, 1); got {dropout}.")


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


class ParameterGroups(NamedTuple):
    """Parameters that are trained alike."""

    wide: list[nn.Parameter]
    """Of which an example meets few: one weight a cross."""
    deep: list[nn.Parameter]
    """All others."""


class RankerNetwork(nn.Module):
    """Base of the rankers' networks.

    A subclass sets ``body``, from the projection [N, H] to what the heads read, and then calls
    ``finish``.
    """

    body: nn.Module
    head: nn.Linear

    def __init__(self, config: NetworkConfig, widths: Widths, width: int, heads: int = 1) -> None:
        """Make everything before ``body``.

        Args:
            config: what is read.
            widths: sizes that follow from the data.
            width: H, of the projection.
            heads: T, logits of a candidate.
        """
        super().__init__()
        dim = config.bucket_dim
        self.wide = nn.EmbeddingBag(max(widths.wide_rows, 1), heads, mode="sum")
        self.user_numbers = Numbers(widths.user_columns, widths.buckets, dim)
        self.item_numbers = Numbers(widths.item_columns, widths.buckets, dim)
        self.pair_numbers = Numbers(widths.pair_columns, widths.buckets, dim)
        self.user_layer = nn.Linear(widths.user + self.user_numbers.width, width)
        self.item_layer = nn.Linear(widths.item + self.item_numbers.width, width, bias=False)
        self.pair_layer = nn.Linear(self.pair_numbers.width, width, bias=False)

    def finish(self, body_width: int) -> None:
        """Add the heads behind a body of that width, and set the first values."""
        self.head = nn.Linear(body_width, self.wide.embedding_dim)
        nn.init.zeros_(self.wide.weight)
        layers = (self.user_layer, self.item_layer, self.pair_layer)
        bound = sum(layer.in_features for layer in layers) ** -0.5  # as one layer over all inputs
        for layer in layers:
            nn.init.uniform_(layer.weight, -bound, bound)

    def parameter_groups(self) -> ParameterGroups:
        """All parameters, by how they are trained."""
        wide = list(self.wide.parameters())
        known = {id(parameter) for parameter in wide}
        return ParameterGroups(wide, [p for p in self.parameters() if id(p) not in known])

    def users(self, users: SideInputs) -> Tensor:
        """[B, H] the users' part of the projection."""
        numbers = self.user_numbers(users.codes, users.scores)
        projected: Tensor = self.user_layer(torch.cat([users.pooled, numbers], dim=1))
        return projected

    def item_inputs(self, items: SideInputs) -> Tensor:
        """[I, D_item] what the projection reads of items."""
        return torch.cat([items.pooled, self.item_numbers(items.codes, items.scores)], dim=1)

    def items(self, items: SideInputs) -> Tensor:
        """[I, H] the items' part of the projection."""
        projected: Tensor = self.item_layer(self.item_inputs(items))
        return projected

    def pair_inputs(self, pairs: PairInputs) -> Tensor:
        """[N, D_pair] what the projection reads of candidates beside their user and item."""
        found: Tensor = self.pair_numbers(pairs.codes, pairs.scores)
        return found

    def deep(self, projected_NH: Tensor) -> Tensor:
        """[N, T] the deep side's logits."""
        logits: Tensor = self.head(self.body(projected_NH))
        return logits

    def forward(self, users_BH: Tensor, items_IH: Tensor, pairs: PairInputs) -> Tensor:
        """[N, T] logits: higher is better among the candidates of one request."""
        own = self.pair_layer(self.pair_inputs(pairs))
        return self.logits(users_BH[pairs.user_of] + items_IH[pairs.item_of] + own, pairs.wide)

    def logits(self, projected_NH: Tensor, wide_NC: Tensor) -> Tensor:
        """[N, T] logits from the projection and the rows of the wide side."""
        logits = self.deep(projected_NH)
        if wide_NC.shape[1]:
            logits = logits + self.wide(wide_NC)
        return logits


def with_one_head(network: RankerNetwork, weights: Sequence[float]) -> dict[str, Tensor]:
    """The state of a network whose one logit is a weighted sum of the T logits of this one.

    Heads and wide sides are linear, so that their sum is one of them; serving pays for one.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    sums_T = torch.tensor(weights, dtype=torch.float32)
    state["head.weight"] = (sums_T @ state["head.weight"])[None]
    state["head.bias"] = (sums_T @ state["head.bias"])[None]
    state["wide.weight"] = (state["wide.weight"] @ sums_T)[:, None]
    return state


def hidden_layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Hidden layers of these widths, of which the first is the vector that comes in."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, following)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(dropout))
