"""What the linear bandits know of an arm: few numbers of the order of 1.

C arms of one request, by falling score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.calibration import Calibration

Doubles = npt.NDArray[np.float64]

NAMES = ("one", "place", "score", "price", "novelty", "is_new", "affinity", "active_novelty")
"""The context: 1; the discount of the ranker's place; its score among the arms'; the quantile of
the price; that of how few have bought the item; whether it came since the release; the share of
the user's purchases in the item's category; novelty, for users who bought much."""
DIM = len(NAMES)


@dataclass(frozen=True)
class Facts:
    """What contexts are made of."""

    score_C: Doubles
    price_C: Doubles
    """Quantile, 0 to 1."""
    novelty_C: Doubles
    """Quantile, 0 to 1."""
    is_new_C: Doubles
    """0 or 1."""
    affinity_C: Doubles
    """Share of the user's purchases, 0 to 1."""
    activity: float
    """Of the user, 0 to 1."""


def contexts(facts: Facts) -> Doubles:
    """[C, 8] numbers named in ``NAMES``."""
    score = facts.score_C
    spread = max(float(score.std()), 1e-9)
    columns = (
        np.ones(len(score)),
        discounts(len(score)),
        np.tanh((score - score.mean()) / (2 * spread)),
        facts.price_C,
        facts.novelty_C,
        facts.is_new_C,
        facts.affinity_C,
        facts.activity * facts.novelty_C,
    )
    return np.stack(columns, axis=1)


def discounts(count: int) -> Doubles:
    """[C] 1 / log2(place + 1)."""
    return np.asarray(1.0 / np.log2(np.arange(2, count + 2)))


def expectations(score_C: Doubles, first: float, calibration: Calibration | None) -> Doubles:
    """[C] rewards that the ranker expects.

    Args:
        score_C: logits.
        first: expectation of the first arm, where there is no calibration.
        calibration: from logits to probabilities.
    """
    if calibration is not None:
        return calibration.probabilities(score_C)
    return first * discounts(len(score_C))
