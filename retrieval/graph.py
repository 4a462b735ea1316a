"""The user-item graph and the average over its neighbours, layer by layer.

Shapes: U rows of users, R rows of items, E edges, D width of the vectors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Graph:
    """Edges between users and items, of weight ``1 / sqrt(d_u d_i)`` for their degrees d."""

    to_users: Tensor
    """[U, R] sparse CSR, float32."""
    to_items: Tensor
    """[R, U] its transpose."""
    item_degrees: Ints
    """[R]"""

    @staticmethod
    def of(user_row: Ints, item_row: Ints, num_users: int, num_items: int) -> Graph:
        """The graph of E edges; an edge that comes twice counts once."""
        ones = np.ones(len(user_row), dtype=np.float32)
        matrix = sp.csr_matrix((ones, (user_row, item_row)), shape=(num_users, num_items))
        matrix.data[:] = 1.0
        users, items = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
        scale = [1.0 / np.sqrt(np.maximum(degrees, 1.0)) for degrees in (users, items)]
        weighted = (sp.diags(scale[0]) @ matrix @ sp.diags(scale[1])).tocsr()
        return Graph(_csr(weighted), _csr(weighted.T.tocsr()), items.astype(np.int64))

    def to(self, device: torch.device) -> Graph:
        """The graph on a device."""
        return Graph(self.to_users.to(device), self.to_items.to(device), self.item_degrees)

    def propagate(
        self, users_UD: Tensor, items_RD: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of all layers: [U, D] and [R, D].

        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
        Recommendation" (2020): a layer is the normalised sum over the neighbours' vectors.

        Args:
            users_UD: layer 0 of the users.
            items_RD: layer 0 of the items.
            weights: [K + 1] of the layers.
        """
        users, items = users_UD * weights[0], items_RD * weights[0]
        for weight in weights[1:]:
            users_UD, items_RD = (
                _product(self.to_users, self.to_items, items_RD),
                _product(self.to_items, self.to_users, users_UD),
            )
            users, items = users + weight * users_UD, items + weight * items_RD
        return users, items


class _Product(torch.autograd.Function):
    """Sparse times dense; the gradient takes the transpose, which is at hand."""

    @staticmethod
    def forward(context: Any, matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        context.transpose = transpose
        return matrix @ dense

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, context.transpose @ gradient.contiguous()


def _product(matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
    found: Tensor = _Product.apply(matrix, transpose, dense)  # type: ignore[no-untyped-call]
    return found


def _csr(matrix: sp.csr_matrix) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )
