"""DCN-V2 (Wang et al., "DCN V2: Improved Deep & Cross Network", 2021): cross layers.

B examples, D width of their vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feature_repo.contract.errors import ConfigError


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
        _require(width > 0, f"CrossLayers needs a width above zero; got {width}.")
        _require(depth >= 0, f"CrossLayers needs a depth of zero or more; got {depth}.")
        _require(
            rank is None or 0 < rank <= width,
            f"CrossLayers needs a rank in 1..{width}, the width, or none; got {rank}.",
        )
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


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigError(sentence)
