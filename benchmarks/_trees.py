"""LightGBM on the candidates and features that a ranker reads: the peer of ``benchmarks.ranking``.

Of all candidates of the label windows, the bought ones and a sample of the others are learned
from: half of the trees by their cross-entropy, half by LambdaRank; scores are the sum of both, each
by its standard deviation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from ranking.features import Requests, numeric_matrix
from trainer.ranker_windows import Window

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SETTINGS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 127,
    "verbose": -1,
}
ROUNDS = 200
"""Chosen on validation of 100, 200 and 300."""
NEGATIVES = 120
"""Candidates without a purchase of a request, on average."""


@dataclass(frozen=True)
class Trees:
    """Two fitted boosters."""

    pointwise: Any
    listwise: Any

    def score(self, values_NF: Floats) -> Floats:
        """[N] scores, higher is better."""
        parts = [booster.predict(values_NF) for booster in (self.pointwise, self.listwise)]
        logits = np.log(parts[0] / (1.0 - parts[0]))
        return np.asarray(logits / logits.std() + parts[1] / parts[1].std(), dtype=np.float32)


def matrix_of(requests: Requests) -> Floats:
    """[N, F] all that a ranker reads as numbers: of pairs, users and items."""
    users = [requests.user(name) for name in requests.user_values]
    items = [requests.item(name) for name in requests.items.values]
    return np.column_stack([numeric_matrix(requests), *users, *items]).astype(np.float32)


def learned_from(windows: Sequence[Window], encoder: Encoder, dataset: Dataset) -> Any:
    """The LightGBM data of some label windows."""
    import lightgbm

    rng = np.random.default_rng(0)
    values, labels, groups = [], [], []
    for window in windows:
        sizes = np.diff(window.candidates.offsets)
        user_of = np.repeat(np.arange(len(sizes)), sizes)
        share = NEGATIVES / np.maximum(sizes, 1)[user_of]
        kept = np.flatnonzero(window.labels | (rng.random(len(user_of)) < share))
        values.append(matrix_of(window.requests(encoder, dataset.half_life_days))[kept])
        labels.append(window.labels[kept])
        groups.append(np.bincount(user_of[kept]))
    every = np.concatenate(groups)
    return lightgbm.Dataset(
        np.concatenate(values),
        np.concatenate(labels).astype(np.int32),
        group=every[every > 0],
        params={"max_bin": SETTINGS["max_bin"], "verbose": -1},
        free_raw_data=False,
    )


def fit_trees(data: Any, seed: int) -> Trees:
    """Fit both boosters."""
    import lightgbm

    settings = {**SETTINGS, "seed": seed}
    listwise = {"objective": "lambdarank", "lambdarank_truncation_level": 30}
    return Trees(
        lightgbm.train({**settings, "objective": "binary"}, data, ROUNDS),
        lightgbm.train({**settings, **listwise}, data, ROUNDS),
    )
