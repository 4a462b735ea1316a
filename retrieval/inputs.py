"""What the user tower reads, made alike in training and in serving.

A history bag is weighed as of now: the logarithm of one plus the decayed count, and each bag
scaled to length 1 so that long histories do not shout.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feature_repo.contract.columns import AnyRows, list_column
from feature_repo.contract.encoding import Bag, Encoded, Encoder, query_times_s
from feature_repo.contract.schema import Encoding, Entity
from feature_repo.contract.state import DAY_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

HISTORY_WEIGHT = "history_weight"
HISTORY_TIME = "history_last_s"


def encode_users(
    encoder: Encoder, rows: AnyRows, now_s: Ints | None, half_life_days: float
) -> Encoded:
    """Inputs of B user rows at ``now_s`` ([B] epoch seconds; by default their query times).

    Raises:
        BadInput: a column that the encoder needs is missing, named.
    """
    now = query_times_s(rows) if now_s is None else now_s
    encoded = encoder.encode(rows, Entity.USER, now)
    for feature in encoder.schema.encoded(Entity.USER, Encoding.BAG):
        if feature.bag_weight == HISTORY_WEIGHT:
            weights = decayed_weights(rows, now, half_life_days, encoder.history_length)
            bag = encoded.bags[feature.name]
            encoded.bags[feature.name] = Bag(
                bag.values, bag.offsets, scaled(np.log1p(weights), bag.offsets)
            )
    return encoded


def decayed_weights(
    rows: AnyRows, now_s: Ints, half_life_days: float, history_length: int
) -> Floats:
    """Decayed counts at ``now_s`` of the first ``history_length`` items of each history, flat."""
    weights, offsets = list_column(rows, HISTORY_WEIGHT)
    last_s, _ = list_column(rows, HISTORY_TIME)
    kept = Bag(np.arange(offsets[-1], dtype=np.int64), offsets).head(history_length)
    now = np.repeat(now_s, np.diff(kept.offsets))
    age_days = (now - np.asarray(last_s).astype(np.int64)[kept.values]) / DAY_S
    weight = np.asarray(weights).astype(np.float64)[kept.values]
    return (weight * np.exp2(-age_days / half_life_days)).astype(np.float32)


def scaled(weights: Floats, offsets: Ints) -> Floats:
    """Weights divided by the length (L2 norm) of their bag."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    squares = np.bincount(owner, weights=weights.astype(np.float64) ** 2, minlength=len(offsets))
    return (weights / np.sqrt(np.maximum(squares, 1e-12))[owner]).astype(np.float32)
