"""DCN-V2 (Wang et al., "DCN V2: Improved Deep & Cross Network", 2021).

B examples, D width of their vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor, nn

from feature_repo.contract.errors import require
from ranking.network import (
    NetworkConfig,
    RankerNetwork,
    Widths,
    hidden_layers,
    require_layers,
)


class Structure(StrEnum):
    """How cross layers and hidden layers are joined."""

    stacked = "stacked"
    """Hidden layers read what the cross layers make."""
    parallel = "parallel"
    """Both read the inputs, and the head reads both."""


@dataclass
class DcnV2Config(NetworkConfig):
    """The shape of a DCN-V2 ranker. It has no wide side, unless crosses are declared."""

    one_hot: bool = False
    """Whether a wide side has a row for every bucket of every column of a pair."""
    width: int = 64
    """Of the projection of all inputs, which the cross layers multiply."""
    cross_layers: int = 2
    cross_rank: int | None = None
    """Rank of the cross layers' matrices; null: full."""
    structure: Structure = Structure.stacked
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the hidden layers."""
    dropout: float = 0.1
    """Share of hidden values set to zero in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.structure = Structure(self.structure)  # as JSON says it
        require_cross_layers(self.width, self.cross_layers, self.cross_rank)
        require_layers(self.hidden, self.dropout)


def require_cross_layers(width: int, depth: int, rank: int | None) -> None:
    """Check the sizes of cross layers.

    Raises:
        ConfigError: a size is out of range.
    """
    require(width > 0, f"Cross layers need a width above zero; got {width}.")
    require(depth >= 0, f"The number of cross layers must not be negative; got {depth}.")
    require(
        rank is None or 0 < rank <= width,
        f"The rank of cross layers must be in 1..{width}, the width, or null; got {rank}.",
    )


class DcnV2(RankerNetwork):
    """Products of inputs by cross layers, and hidden layers, over a projection of all inputs.

    The paper's cross layers read the inputs side by side; a projection keeps their cost free of
    the number of features, and the items' part of it can be kept.
    """

    def __init__(self, config: DcnV2Config, widths: Widths, heads: int = 1) -> None:
        super().__init__(config, widths, config.width, heads)
        cross = CrossLayers(config.width, config.cross_layers, config.cross_rank)
        first = nn.Linear(config.width, config.hidden[0])
        deep = nn.Sequential(first, *hidden_layers(config.hidden, config.dropout))
        last = config.hidden[-1]
        match config.structure:
            case Structure.stacked:
                self.body = nn.Sequential(cross, deep)
                self.finish(last)
            case Structure.parallel:
                self.body = Beside(cross, deep)
                self.finish(config.width + last)


class Beside(nn.Module):
    """What several modules make of the same input, side by side."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., sum of the parts' widths]"""
        return torch.cat([part(inputs) for part in self.parts], dim=-1)


class CrossLayers(nn.Module):
    """Cross layers, equation 1: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, product by element.

    After l layers, an output holds products of up to l + 1 of the inputs.
    """

    def __init__(self, width: int, depth: int, rank: int | None = None) -> None:
        """Make ``depth`` layers.

        Args:
            width: of the vectors.
            depth: layers; 0 leaves the vectors as they are.
            rank: of the matrices W, as products of a [D, rank] and a [rank, D] one; null: full.

        Raises:
            ConfigError: a size is out of range.
        """
        super().__init__()
        require_cross_layers(width, depth, rank)
        self.layers = nn.ModuleList(_matrix(width, rank) for _ in range(depth))

    def forward(self, inputs_BD: Tensor) -> Tensor:
        """[B, D] float32"""
        found_BD = inputs_BD
        for layer in self.layers:
            found_BD = torch.addcmul(found_BD, inputs_BD, layer(found_BD))
        return found_BD


def _matrix(width: int, rank: int | None) -> nn.Module:
    """W x + b."""
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
