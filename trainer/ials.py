"""Fitting matrix factorisation by alternating least squares, through the library implicit.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (2008).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from trainer.factor_config import IalsConfig

Floats = npt.NDArray[np.float32]


def fit_ials(weights: sp.csr_matrix, config: IalsConfig) -> tuple[Floats, Floats, Floats]:
    """User vectors [U, D], item vectors [R, D] and fold-in vectors [R, D].

    A user whom the model did not see gets ``sum over its items of (Y'Y + l2 I)^-1 (1 + alpha) y``:
    the least-squares step that all users get, with the confidence of its items left out of the
    matrix so that it is a sum.

    Args:
        weights: [U, R] decayed counts.
        config: width, regularisation, confidence, rounds and seed.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):  # implicit has threads of its own
        model = AlternatingLeastSquares(
            factors=config.dim,
            regularization=config.l2,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=config.seed,
        )
        model.fit(weights, show_progress=False)
    items: Floats = np.asarray(model.item_factors, dtype=np.float32)
    gram = items.T.astype(np.float64) @ items + config.l2 * np.eye(config.dim)
    fold_in = np.linalg.solve(gram, items.T.astype(np.float64) * (1.0 + config.alpha)).T
    return np.asarray(model.user_factors, np.float32), items, fold_in.astype(np.float32)
