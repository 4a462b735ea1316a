"""What labels and requests count for in a ranker's loss: inverse propensities, and recency.

B requests, N candidates of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from feature_repo.contract.columns import list_column
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.events import EXPOSED_ITEM, EXPOSED_POSITION, EXPOSED_PROPENSITY
from feature_repo.contract.state import DAY_S
from trainer.ranker_batches import counts_of, wanted_in
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_rows import Rows
from trainer.ranker_windows import Window

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def weighed(rows: Rows, windows: Sequence[Window], model: RankerModelConfig) -> Rows:
    """The rows of all windows with what their labels and requests count for; 1 in the mean."""
    wanted = wanted_in(rows, model.trained_tasks)
    if model.propensity_power > 0:
        ends = np.cumsum([len(window.labels) for window in windows])
        parts = np.split(wanted, ends[:-1])
        shown = np.concatenate(
            [propensities(window, own) for window, own in zip(windows, parts, strict=True)]
        )
        gains = inverse(shown, model.propensity_power, model.propensity_floor)
        rows = replace(rows, gains=_of_mean_one(gains, wanted))
    if model.recency_half_life is not None:
        times_s = np.concatenate([query_times_s(window.user_rows) for window in windows])
        weights = recency(times_s, model.recency_half_life)
        rows = replace(rows, weights=_of_mean_one(weights, counts_of(rows, wanted) > 0))
    return rows


def inverse(propensities_N: Doubles, power: float, floor: float) -> Doubles:
    """[N] one over the propensities to a power, but at most one over ``floor`` (clipping bounds
    the variance: Joachims et al., "Unbiased Learning-to-Rank with Biased Feedback", 2017)."""
    return 1.0 / np.maximum(propensities_N**power, floor)


def recency(times_s: Ints, half_life_days: float) -> Doubles:
    """[B] halved for every ``half_life_days`` before the latest of the times (epoch seconds)."""
    days = (times_s.max(initial=0) - times_s) / DAY_S
    return np.asarray(np.exp2(-days / half_life_days))


def _of_mean_one(values: Doubles, counted: Bools) -> npt.NDArray[np.float32]:
    mean = values[counted].mean() if counted.any() else 1.0
    return (values / mean).astype(np.float32)


def propensities(window: Window, wanted_N: Bools) -> Doubles:
    """[N] how likely each candidate was to be noticed, up to a factor.

    Where the shop logs what it shows: the logged probability, else one over the best place, else
    1, for what was not shown was found without it. Elsewhere the item's share of the labels of the
    most popular one (Yang et al., "Unbiased Offline Recommender Evaluation for
    Missing-Not-At-Random Implicit Feedback", 2018).
    """
    shown = _shown(window)
    if np.isnan(shown).all():
        rows = window.candidates.item_row
        counts = np.bincount(rows[wanted_N], minlength=int(rows.max(initial=0)) + 1)
        return np.asarray(counts[rows] / max(counts.max(initial=0), 1), dtype=np.float64)
    return np.nan_to_num(shown, nan=1.0)


def _shown(window: Window) -> Doubles:
    """[N] of what was logged; NaN where nothing was."""
    found = np.full(len(window.labels), np.nan)
    if EXPOSED_ITEM not in window.user_rows.column_names:
        return found
    ids, offsets = list_column(window.user_rows, EXPOSED_ITEM)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = _places(window, owner, window.vocabulary.rows(ids))
    values = [
        np.asarray(list_column(window.user_rows, name)[0], dtype=np.float64)
        for name in (EXPOSED_PROPENSITY, EXPOSED_POSITION)
    ]
    logged = np.where(np.isnan(values[0]), 1.0 / values[1], values[0])
    found[place[place >= 0]] = logged[place >= 0]
    return found


def _places(window: Window, owner: Ints, item_row: Ints) -> Ints:
    """Where items of users are among the candidates; -1 where they are none."""
    candidates = window.candidates
    stride = 1 + int(max(candidates.item_row.max(initial=0), item_row.max(initial=0)))
    users = np.repeat(np.arange(len(candidates)), np.diff(candidates.offsets))
    keys, wanted = users * stride + candidates.item_row, owner * stride + item_row
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return np.where(keys[place] == wanted, place, -1) if len(keys) else np.full_like(wanted, -1)
