"""Neural matrix factorisation, as plain torch over looked-up rows.

He et al., "Neural Collaborative Filtering" (2017): GMF is a dot product whose dimensions are
weighted, MLP a network over both vectors, NeuMF the weighted sum of their logits. The network's
first layer is a sum of a user's and an item's part, which equals one layer over both vectors: each
is computed once a user and once an item, not once a pair. Shapes: B users, C items, N pairs, D
width of GMF's vectors, M of MLP's, H of the first hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class NeuMf(nn.Module):
    """What is trained beside the tables."""

    def __init__(
        self, dim: int, mlp_dim: int, hidden: Sequence[int], alpha: float, dropout: float = 0.0
    ) -> None:
        """Make the layers.

        Args:
            dim: D
            mlp_dim: M
            hidden: widths of the network's layers, from H on.
            alpha: share of GMF in the sum of both logits.
            dropout: share of the network's hidden values set to zero in training.
        """
        super().__init__()
        self.alpha = alpha
        self.gmf_output = nn.Linear(dim, 1)
        self.user_layer = nn.Linear(mlp_dim, hidden[0])
        self.item_layer = nn.Linear(mlp_dim, hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in pairwise([*hidden, 1]))
        self.dropout = nn.Dropout(dropout)
        nn.init.ones_(self.gmf_output.weight)  # GMF starts as matrix factorisation
        bound = (2 * mlp_dim) ** -0.5  # as one layer over both vectors
        for layer in (self.user_layer, self.item_layer):
            nn.init.uniform_(layer.weight, -bound, bound)

    def linear_layers(self) -> list[nn.Linear]:
        """The network behind its first layer."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def weighted(self, users_BD: Tensor) -> Tensor:
        """[B, D] the users' vectors, whose dot products with items are GMF's logits but for
        ``gmf_output.bias``."""
        return users_BD * self.gmf_output.weight

    def gmf(self, weighted_ND: Tensor, items_ND: Tensor) -> Tensor:
        """[N] logits of pairs of ``weighted`` users and items."""
        return (weighted_ND * items_ND).sum(dim=-1) + self.gmf_output.bias

    def mlp(self, users_NH: Tensor, items_NH: Tensor) -> Tensor:
        """[N] logits of pairs of what ``user_layer`` and ``item_layer`` say of each."""
        hidden = users_NH + items_NH
        for layer in self.linear_layers():
            hidden = layer(self.dropout(torch.relu(hidden)))
        return hidden.squeeze(-1)

    def neumf(self, gmf_N: Tensor, mlp_N: Tensor) -> Tensor:
        """[N] logits of both as one."""
        return self.alpha * gmf_N + (1.0 - self.alpha) * mlp_N
