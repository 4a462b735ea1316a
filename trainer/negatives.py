"""Items that are drawn to be set against what users bought.

N places of draws, C candidate items, T targets, D draws for each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feature_repo.contract.randomness import key, uniform
from trainer.randomness import Stream

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_MOST = 1 << 20
"""More than the targets that one session has."""


def drawn_items(seed: int, step: int, places: Ints, num_rows: int) -> Ints:
    """[N] uniform item rows from 1: one a place, the same whichever places are asked for."""
    drawn = uniform(key(seed, Stream.NEGATIVES, step), places)
    return 1 + (drawn * (num_rows - 1)).astype(np.int64)


def drawn_for_targets(
    seed: int, step: int, offsets: Ints, first: int, each: int, num_rows: int
) -> Ints:
    """[T, D] uniform item rows from 1, drawn for each target alone.

    Args:
        seed: of the run.
        step: of the run.
        offsets: [B + 1] the targets of session b are ``[offsets[b], offsets[b + 1])``.
        first: place of the first session in the batch of all processes.
        each: D.
        num_rows: rows of the item vocabulary.
    """
    sizes = np.diff(offsets)
    owner = np.repeat(np.arange(len(sizes)) + first, sizes)
    within = np.arange(len(owner)) - np.repeat(offsets[:-1], sizes)
    places = (owner * _MOST + within)[:, None] * each + np.arange(each)
    return drawn_items(seed, step, places.ravel(), num_rows).reshape(places.shape)


def log_inclusion(
    share_C: Doubles, num_targets: int, num_drawn: int, num_rows: int, strength: float
) -> Floats:
    """[C] log of the probability that an item is among the candidates, times the strength.

    Args:
        share_C: share of all targets that are the item.
        num_targets: of the batch.
        num_drawn: uniform draws of the batch.
        num_rows: rows of the item vocabulary.
        strength: 0 for no correction.
    """
    absent = num_targets * np.log1p(-np.minimum(share_C, 1 - 1e-9))
    absent += num_drawn * np.log1p(-1.0 / num_rows)
    log_q = np.log(np.maximum(-np.expm1(absent), 1e-12))
    found: Floats = (strength * log_q).astype(np.float32)
    return found
