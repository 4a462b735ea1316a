"""A few made-up purchases for tests of neighbour tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.neighbours import Purchases


def made_purchases(seed: int = 0, num_users: int = 30, num_rows: int = 9) -> Purchases:
    """Each user bought about four tenths of the items, with random decayed counts."""
    random = np.random.default_rng(seed)
    bought = random.random((num_users, num_rows)) < 0.4
    bought[:, 0] = False
    user, item = np.nonzero(bought)
    weight = random.gamma(2.0, 1.0, len(user)).astype(np.float32)
    return Purchases(user, item, weight, num_users, num_rows)


def dense(
    neighbours: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """A neighbour table as a matrix [R, R]."""
    matrix = np.zeros((len(neighbours), len(neighbours)))
    for row in range(len(neighbours)):
        np.add.at(matrix[row], neighbours[row], weights[row])
    return matrix
