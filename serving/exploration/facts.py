"""What the contexts of arms are made of, of a release's items; R rows of its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.vocabulary import Vocabulary
from ranking.exploration.contexts import Facts

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BUYERS, PRICE = "buyers_total", "price"
CATEGORIES = ("category", "department")
"""The first one that a shop has."""
MUCH = 200
"""Items in the history of a user who is as active as any."""


@dataclass(frozen=True)
class ItemFacts:
    """The items as they were when the release was made; what came since is new."""

    price_R: Floats
    """Quantile; 0.5 where unknown."""
    novelty_R: Floats
    """Quantile of how few bought an item; 1 of items that nobody bought."""
    new_R: Floats
    """1 of items that nobody bought."""
    category_R: npt.NDArray[np.int32]
    """0 is unknown."""

    @staticmethod
    def of(items: pa.Table, vocabulary: Vocabulary) -> ItemFacts:
        """Read them from the release's item rows."""
        rows = vocabulary.rows(column_of(items, "item_id"))
        count = vocabulary.num_rows
        price, buyers = (_numbers(items, name, len(rows)) for name in (PRICE, BUYERS))
        never = np.nan_to_num(buyers, nan=1.0) == 0
        few = np.where(never, 1.0, 1.0 - _quantiles(buyers))
        return ItemFacts(
            _by_row(rows, count, _quantiles(price), 0.5),
            _by_row(rows, count, few, 1.0),
            _by_row(rows, count, never, 1.0),
            _by_row(rows, count, _codes(items, len(rows)), 0).astype(np.int32),
        )

    def at(self, item_C: Ints, score_C: Doubles, bought: Ints) -> Facts:
        """Of C arms of one user.

        Args:
            item_C: rows; those past the release's are new.
            score_C: the ranker's.
            bought: rows of the items that the user bought.
        """
        rows = np.where(item_C < len(self.price_R), item_C, 0)
        mine = self.category_R[bought[bought < len(self.category_R)]]
        mine = mine[mine > 0]
        shares = np.bincount(mine, minlength=1) / max(len(mine), 1)
        category = self.category_R[rows]
        known = np.where(category < len(shares), category, 0)
        affinity = np.where((category > 0) & (category < len(shares)), shares[known], 0.0)
        return Facts(
            np.asarray(score_C, np.float64),
            self.price_R[rows].astype(np.float64),
            self.novelty_R[rows].astype(np.float64),
            self.new_R[rows].astype(np.float64),
            affinity,
            min(float(np.log1p(len(bought)) / np.log1p(MUCH)), 1.0),
        )


def _by_row(rows: Ints, count: int, values: npt.NDArray[np.generic], missing: float) -> Floats:
    found = np.full(count, missing, dtype=np.float32)
    found[rows] = values
    found[0] = missing
    return found


def _numbers(items: pa.Table, name: str, count: int) -> Doubles:
    if name not in items.column_names:
        return np.full(count, np.nan)
    return np.array(column_of(items, name).cast(pa.float64()).fill_null(np.nan))


def _quantiles(values: Doubles) -> Doubles:
    """Mid-ranks over their number; 0.5 where unknown."""
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return np.full(len(values), 0.5)
    below = np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")
    return np.where(np.isnan(values), 0.5, below / (2 * len(known)))


def _codes(items: pa.Table, count: int) -> Ints:
    names: Sequence[str] = [name for name in CATEGORIES if name in items.column_names]
    if not names:
        return np.zeros(count, np.int64)
    coded = column_of(items, names[0]).cast(pa.string()).dictionary_encode()
    return np.asarray(coded.indices.fill_null(-1)).astype(np.int64) + 1
