"""Filling the explored places of one list, with the probability of every choice.

C arms, S rows of worths (``ranking.exploration.bandits``), P places, from the top down.

A place is given to an arm by a probability that is known exactly. ``share`` of it is uniform over
the arms that are left. The rest is each arm's share of the rows in which it is the best that is
left: all of it for one arm where there is one row, as of UCB. Of Thompson sampling the rows are
drawn first, and then one of them decides: that is one draw of Thompson sampling, as ever, and given
the rows, which have nothing to do with what the user will do, its probability is a count over S.
So weights by it are without bias, however few draws there are. Propensities are given what the
places above hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """Arms for places."""

    arm_P: Ints
    propensity_P: Doubles


def choose(worths_SC: Doubles, share: float, num_places: int, random: Generator) -> Chosen:
    """Different arms for as many places; for fewer, where there are fewer arms.

    Args:
        worths_SC: each row's best arm is a choice.
        share: of the choices that are uniform.
        num_places: that are explored.
        random: draws the choices.
    """
    num_places = min(num_places, worths_SC.shape[1])
    worths_SC = np.array(worths_SC)
    left = np.ones(worths_SC.shape[1], dtype=np.bool_)
    arms, propensities = np.zeros(num_places, np.int64), np.zeros(num_places)
    for place in range(num_places):
        probability_C = probabilities(worths_SC, left, share)
        arm = _drawn(probability_C, random)
        arms[place], propensities[place] = arm, probability_C[arm]
        left[arm], worths_SC[:, arm] = False, -np.inf
    return Chosen(arms, propensities)


def probabilities(worths_SC: Doubles, left_C: npt.NDArray[np.bool_], share: float) -> Doubles:
    """[C] how likely each arm is given the next place; those not ``left`` are worth -inf."""
    best = np.bincount(worths_SC.argmax(axis=1), minlength=len(left_C)) / len(worths_SC)
    return np.asarray((1.0 - share) * best + share * left_C / left_C.sum())


def _drawn(probability_C: Doubles, random: Generator) -> int:
    edges = probability_C.cumsum()
    arm = int(np.searchsorted(edges, random.random() * edges[-1], side="right"))
    return min(arm, int(np.flatnonzero(probability_C)[-1]))
