"""A simulated shop with planted preferences, for bandits: what is clicked, and what a ranker knows.

Segments of users like categories of items more or less, and every item has an appeal of its own.
The ranker knows both of old items, with errors. Of new items it knows the category alone and, as
rankers do that were trained on what was bought, takes them for unpopular. Half of the new items are
there from the start and half come after a third of the time. A click's odds are as planted, times
how often a place is looked at.

G segments, K categories, I items, C candidates of a request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from ranking.calibration import sigmoid
from ranking.exploration.contexts import Facts

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SEGMENTS, CATEGORIES = 4, 8
LOGIT = -3.2
"""Of a click on an item of no appeal, of a category that is liked neither more nor less."""
UNPOPULAR = 1.0
"""By so much the ranker's logit of a new item is too low in the mean."""
LOCKED = 0.35
"""Standard deviation of the ranker's errors on old items."""


@dataclass(frozen=True)
class Shop:
    """What is planted, and what the ranker makes of it."""

    rate_GI: Doubles
    """True click rates at the first place."""
    score_GI: Doubles
    """The ranker's logits."""
    liking_GI: Doubles
    """Share of a segment's purchases in the item's category."""
    price_I: Doubles
    novelty_I: Doubles
    """Quantiles."""
    arrives_I: Doubles
    """Share of the time after which an item is there; 0 of old ones."""
    new_I: Bools
    category_I: Ints

    @staticmethod
    def of(random: Generator, num_items: int, num_new: int) -> Shop:
        """Plant one.

        Args:
            random: draws everything.
            num_items: old and new ones.
            num_new: of them, new ones.
        """
        category = random.integers(0, CATEGORIES, num_items)
        taste = random.normal(0.0, 0.8, (SEGMENTS, CATEGORIES))
        appeal = random.normal(0.0, 0.8, num_items)
        new = np.arange(num_items) >= num_items - num_new
        liked = taste[:, category]
        seen = np.where(new, -UNPOPULAR, appeal + random.normal(0.0, LOCKED, num_items))
        errors = random.normal(0.0, LOCKED, (SEGMENTS, CATEGORIES))[:, category]
        share = np.exp(taste) / np.exp(taste).sum(axis=1, keepdims=True)
        quantile = random.permutation(num_items) / num_items
        fewest = np.where(new, 1.0, _quantiles(-appeal))
        arrives = np.where(new & (np.arange(num_items) % 2 == 0), 1 / 3, 0.0)
        return Shop(
            rate_GI=sigmoid(LOGIT + liked + appeal),
            score_GI=LOGIT + liked + errors + seen,
            liking_GI=share[:, category],
            price_I=quantile,
            novelty_I=fewest,
            arrives_I=arrives,
            new_I=new,
            category_I=category,
        )

    def request(self, random: Generator, time: float, found: int, arms: int) -> tuple[int, Ints]:
        """A user's segment, and the head of its ranked list.

        Args:
            random: draws the user and the candidates.
            time: share that is over.
            found: candidates.
            arms: of the head.
        """
        segment = int(random.integers(SEGMENTS))
        there = np.flatnonzero(self.arrives_I <= time)
        candidates = random.choice(there, min(found, len(there)), replace=False)
        order = np.argsort(-self.score_GI[segment, candidates], kind="stable")
        return segment, candidates[order[:arms]]

    def facts(self, segment: int, item_C: Ints) -> Facts:
        """What contexts are made of."""
        return Facts(
            self.score_GI[segment, item_C],
            self.price_I[item_C],
            self.novelty_I[item_C],
            self.new_I[item_C].astype(np.float64),
            self.liking_GI[segment, item_C],
            activity=0.5,
        )


def _quantiles(values: Doubles) -> Doubles:
    return np.asarray(values.argsort().argsort() / len(values))


def looks(num_places: int, power: float) -> Doubles:
    """[P] how often each place is looked at, against the first."""
    return np.asarray(np.arange(1, num_places + 1, dtype=np.float64) ** -power)
