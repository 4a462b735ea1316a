"""From a ranker's windows to its rows: the input encoder is fitted on the latest of them.

N candidates, F numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from ranking.features import numeric_matrix
from ranking.inputs import InputEncoder
from ranking.network import NetworkConfig
from trainer.ranker_rows import Rows
from trainer.ranker_windows import Window

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

QUANTILE_ROWS = 300_000
"""Candidates that cut points are found on, at most."""


def encode_windows(
    windows: Sequence[Window], config: NetworkConfig, dataset: Dataset
) -> tuple[InputEncoder, Rows]:
    """Fit the input encoder on the latest window, the first, and encode them all.

    Raises:
        ConfigError: the windows' retrievers have different sources.
    """
    latest = windows[0]
    sources = latest.candidates.sources
    if any(window.candidates.sources != sources for window in windows):
        found = [list(window.candidates.sources) for window in windows]
        raise ConfigError(f"All windows need retrievers of the same sources; got {found}.")
    encoder = fit_encoder(windows, config, dataset)
    requests = latest.requests(encoder, dataset.half_life_days)
    values = numeric_matrix(requests)
    inputs = InputEncoder.fit(encoder, requests, values, balanced_rows(latest.labels), config)
    first = latest.rows(inputs, requests, values)
    del values
    return inputs, Rows.joined([first, *(window.encode(inputs) for window in windows[1:])])


def balanced_rows(labels: Bools) -> Ints:
    """As many bought candidates as others, evenly spaced.

    Cut points found on them lie where bought candidates are told apart. Found on all candidates,
    nearly every cut would lie among the nine in ten that nobody wants.
    """
    bought, others = np.flatnonzero(labels), np.flatnonzero(~labels)
    size = min(len(bought), len(others), QUANTILE_ROWS // 2)
    if size == 0:
        return np.arange(min(len(labels), QUANTILE_ROWS), dtype=np.int64)
    chosen = [
        rows[np.linspace(0, len(rows) - 1, size).astype(np.int64)] for rows in (bought, others)
    ]
    return np.concatenate(chosen)


def fit_encoder(windows: Sequence[Window], config: NetworkConfig, dataset: Dataset) -> Encoder:
    """An encoder with a row for each item that is a candidate, and for each user if users' ids
    are read."""
    latest = windows[0]
    item_ids = [
        window.vocabulary.ids.take(pa.array(np.unique(window.candidates.item_row) - 1))
        for window in windows
    ]
    user_ids = [column_of(window.user_rows, "user_id") for window in windows]
    if "user_id" in config.without:
        user_ids = [ids.slice(0, 0) for ids in user_ids]
    return Encoder.fit(
        latest.schema,
        Vocabulary.build(pa.concat_arrays(user_ids), dataset.user_id),
        Vocabulary.build(pa.concat_arrays(item_ids), dataset.item_id),
        latest.user_rows,
        latest.item_rows,
        config.history_length,
    )
