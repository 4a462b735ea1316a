"""What exploration did to one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.exploration.config import ExplorationConfig
from ranking.exploration.sums import Shown
from serving.answers import Recommendation
from serving.ids import Id

Doubles = npt.NDArray[np.float64]

DIGITS = 4
"""Of the numbers that are logged; what is learned is learned from these."""


@dataclass(frozen=True)
class Explored:
    """One list, and among what its explored places were chosen."""

    config: ExplorationConfig
    state: str
    """Name under which it is learned from."""
    item_ids: Sequence[Id]
    """Of the list, K items."""
    propensities: Sequence[float]
    """[K] how likely each was to be shown at its place, given those above; 1 of places that are not
    explored."""
    context_KD: Doubles
    expected_K: Doubles
    arms: Sequence[Id]
    """Among which was chosen, C items."""
    context_CD: Doubles
    expected_C: Doubles
    places: Sequence[int]
    """From 1, that are explored."""
    chosen: Sequence[int]
    """Index of the arm at each of them."""

    def shown(self) -> list[Shown]:
        """What is learned from: all items whose contexts are known."""
        power = self.config.position_power
        return [
            Shown(item_id, context, float(expected), float(place**-power))
            for place, (item_id, context, expected) in enumerate(
                zip(self.item_ids, self.context_KD, self.expected_K, strict=True), 1
            )
        ]

    def line(self) -> dict[str, Any]:
        """As the log of exposures has it."""
        found: dict[str, Any] = {
            "state": self.state,
            "algorithm": self.config.algorithm.value,
            "places": list(self.places),
        }
        if self.config.log_arms:
            found |= {
                "arms": list(self.arms),
                "contexts": self.context_CD.tolist(),
                "expected": self.expected_C.tolist(),
                "chosen": list(self.chosen),
            }
        return found


def told(answer: Recommendation, explored: Explored | None, *, explain: bool) -> Recommendation:
    """An answer with what was explored, for the logs, and where that is asked for with each item's
    propensity; items that filled a short list up have 1."""
    if explored is None:
        return answer
    answer = replace(answer, explored=explored)
    if not explain:
        return answer
    said = padded(explored.propensities, len(answer.items))
    items = [
        replace(item, propensity=round(own, 6))
        for item, own in zip(answer.items, said, strict=True)
    ]
    return replace(answer, items=items)


def padded(propensities: Sequence[float], count: int) -> list[float]:
    """Of a whole list: 1 of the popular items at its end, which fill it up."""
    return [*propensities, *[1.0] * (count - len(propensities))]
