"""LightGBM on the candidates and features that a ranker reads: the peer of ``benchmarks.ranking``.

Of all candidates of the label windows, the bought ones and a sample of the others are learned
from: half of the trees by their cross-entropy, half by LambdaRank; scores are the sum of both, each
by its standard deviation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from ranking.features import Requests, numeric_matrix
from ranking.wide_deep import WideDeepConfig
from trainer.ranker_inputs import fit_encoder
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


def fit_trees(windows: Sequence[Window], encoder: Encoder, dataset: Dataset, seed: int) -> Trees:
    """Learn from label windows."""
    import lightgbm

    rng = np.random.default_rng(seed)
    values, labels, groups = [], [], []
    for window in windows:
        sizes = np.diff(window.candidates.offsets)
        share = NEGATIVES / np.maximum(np.repeat(sizes, sizes), 1)
        kept = np.flatnonzero(window.labels | (rng.random(len(window.labels)) < share))
        matrix = matrix_of(window.requests(encoder, dataset.half_life_days))
        values.append(matrix[kept])
        labels.append(window.labels[kept])
        user_of = np.repeat(np.arange(len(sizes)), sizes)[kept]
        groups.append(np.bincount(user_of, minlength=len(sizes)))
    every = np.concatenate(groups)
    data = lightgbm.Dataset(
        np.concatenate(values),
        np.concatenate(labels).astype(np.int32),
        group=every[every > 0],
        free_raw_data=False,
    )
    found = []
    for objective in ("binary", "lambdarank"):
        settings = {**SETTINGS, "objective": objective, "seed": seed}
        if objective == "lambdarank":
            settings["lambdarank_truncation_level"] = 30
        found.append(lightgbm.train(settings, data, ROUNDS))
    return Trees(found[0], found[1])


def open_windows(bundles: Sequence[Path], dataset: Dataset, *, new_only: bool) -> list[Window]:
    """The label windows of some retrievers, latest first."""
    return [Window.open(bundle, dataset, new_only=new_only) for bundle in bundles]


def encoder_of(windows: Sequence[Window], dataset: Dataset) -> Encoder:
    """An encoder, of which trees read the numeric features alone."""
    return fit_encoder(windows, WideDeepConfig(), dataset)
