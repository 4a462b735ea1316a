"""The projection of one trained network as look-ups: what each bucket adds, computed once.

A linear layer over the vectors of buckets is a sum of one vector a bucket. N candidates, B
requests, I items, F numeric columns, D width of a bucket's vector, H width of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ranking.kernels import add_vectors
from ranking.network import RankerNetwork

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Projection:
    """What the numeric columns of a candidate add to the projection."""

    missing_H: Floats
    """All columns, where the value is missing."""
    vectors: Floats
    """[F, buckets, H] a bucket, less a missing value's."""
    slopes: Floats
    """[F, H] a normal score of 1."""

    @staticmethod
    @torch.inference_mode()
    def of(network: RankerNetwork, num_columns: int) -> Projection:
        """Of a network that reads so many columns of a candidate."""
        table, weight = network.pair_numbers.vectors.weight, network.pair_layer.weight
        width = len(weight)
        if not num_columns:
            nothing = np.zeros((0, width), np.float32)
            return Projection(np.zeros(width, np.float32), nothing[:, None], nothing)
        vectors_FBD = table.reshape(num_columns, -1, table.shape[1])
        end = num_columns * table.shape[1]
        weight_HFD = weight[:, :end].reshape(width, num_columns, -1)
        added = torch.einsum("fbd,hfd->fbh", vectors_FBD, weight_HFD)
        missing = added[:, :1]
        return Projection(
            missing.sum(dim=(0, 1)).numpy(),
            (added - missing).contiguous().numpy(),
            weight[:, end:].T.contiguous().numpy(),
        )

    def __call__(
        self,
        users_BH: torch.Tensor,
        items_IH: torch.Tensor,
        rows: tuple[Ints, Ints],
        codes_FN: Codes,
        scores_FN: Floats,
    ) -> torch.Tensor:
        """[N, H] the projection.

        Args:
            users_BH: the users' part.
            items_IH: the items' part.
            rows: [N] of the users, [N] of the items.
            codes_FN: buckets of the columns.
            scores_FN: normal scores of the columns.
        """
        found = scores_FN.T @ self.slopes
        own = users_BH.numpy() + self.missing_H, items_IH.numpy()
        add_vectors(found, codes_FN, own, rows, self.vectors)
        return torch.from_numpy(found)
