"""Features of a user and a candidate: the fold's state, read at the time ``now``.

Each function takes the histories of B users and their N candidates and returns N values, NaN where
the feature does not exist (an item never bought has no gap). The table at the end names them all;
``PAIR_FEATURES`` is its schema.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.schema import Encoding, Entity, Feature
from feature_repo.contract.state import DAY_S, Histories
from feature_repo.contract.vocabulary import Vocabulary

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

GROUPS = ("department", "category", "subcategory", "brand")
"""Item attributes over which a history is summed."""


@dataclass(frozen=True)
class PairCatalogue:
    """What pair features need of the items, by item row; row 0 is the unknown item."""

    codes: dict[str, npt.NDArray[np.int32]]
    """Group -> [R] code of the item's group; 0 where missing."""
    price: Floats
    """[R] present price a unit; NaN where unknown."""

    @staticmethod
    def from_table(items: pa.Table, vocabulary: Vocabulary) -> PairCatalogue:
        """Read item rows (``item_id``, the groups, ``price_28d`` or ``price``)."""
        rows = vocabulary.rows(column_of(items, "item_id"))
        codes = {group: _codes(items, group, rows, vocabulary.num_rows) for group in GROUPS}
        codes["brand_subcategory"] = _crossed(codes["brand"], codes["subcategory"])
        name = "price_28d" if "price_28d" in items.column_names else "price"
        price = np.full(vocabulary.num_rows, np.nan, dtype=np.float32)
        price[rows] = np.asarray(column_of(items, name).cast(pa.float32()).fill_null(np.nan))
        price[0] = np.nan
        return PairCatalogue(codes, price)


def _codes(items: pa.Table, group: str, rows: Ints, num_rows: int) -> npt.NDArray[np.int32]:
    column = column_of(items, group).cast(pa.string()).dictionary_encode()
    codes = np.zeros(num_rows, dtype=np.int32)
    codes[rows] = np.asarray(column.indices.fill_null(-1)).astype(np.int32) + 1
    codes[0] = 0
    return codes


def _crossed(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    pairs = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    pairs = np.where((first == 0) | (second == 0), 0, pairs)
    _, codes = np.unique(np.concatenate([[0], pairs]), return_inverse=True)
    return codes[1:].astype(np.int32)


class Pairs:
    """The histories of B users, H entries in all, against N candidates; sums are shared."""

    def __init__(
        self,
        histories: Histories,
        candidates: tuple[Ints, Ints],
        catalogue: PairCatalogue,
        now_s: Ints,
        half_life_days: float,
    ) -> None:
        self.history = histories
        self.user_of, self.candidates = candidates
        self.catalogue = catalogue
        self.half_life_days = half_life_days
        self.owner = np.repeat(
            np.arange(len(histories), dtype=np.int64), np.diff(histories.offsets)
        )
        self.now_s = now_s[self.owner]
        self.weights = histories.weight_at(now_s, half_life_days).astype(np.float64)
        self.known = histories.item_row > 0

    @cached_property
    def place(self) -> Ints:
        """[N] index of the candidate in its user's history; -1 where it is not there."""
        size = len(self.catalogue.price)
        mine = self.owner * size + self.history.item_row
        order = np.argsort(mine, kind="stable")
        place = _find_sorted(mine[order], self.user_of * size + self.candidates)
        return np.where(place >= 0, order[place] if len(order) else -1, -1).astype(np.int64)

    def own(self, values: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> Floats:
        """[N] the candidate's entry of a history column; NaN where never bought."""
        if not len(values):
            return np.full(len(self.candidates), np.nan, dtype=np.float32)
        return np.where(self.place >= 0, values[self.place], np.nan).astype(np.float32)

    @cached_property
    def ages_days(self) -> Doubles:
        """[H] days since the last purchase of each item of the history."""
        return (self.now_s - self.history.last_s) / DAY_S

    def of_users(self, values_H: npt.NDArray[Any]) -> Doubles:
        """[B] sums over the histories."""
        sums = np.bincount(self.owner, values_H, minlength=len(self.history))
        return sums.astype(np.float64, copy=False)

    @cached_property
    def share(self) -> Doubles:
        """[H] part of the decayed count of everything in the user's history."""
        return self.weights / np.maximum(self.of_users(self.weights), 1e-9)[self.owner]

    @cached_property
    def groups(self) -> dict[str, tuple[int, Ints, Ints]]:
        """Group -> (pairs of a user and a group, each entry's pair, each candidate's or -1)."""
        found = {}
        for group, codes in self.catalogue.codes.items():
            size = int(codes.max(initial=0)) + 1
            mine = self.owner * size + codes[self.history.item_row]
            wanted = codes[self.candidates]
            unique, inverse = np.unique(mine, return_inverse=True)
            place = _find_sorted(unique, self.user_of * size + wanted)
            found[group] = (len(unique), inverse, np.where(wanted == 0, -1, place))
        return found

    def summed(self, group: str, values: Doubles) -> Floats:
        """[N] sum of ``values`` over the history entries in the candidate's group; 0 if none."""
        size, inverse, place = self.groups[group]
        if not size:
            return np.zeros(len(self.candidates), dtype=np.float32)
        sums = np.bincount(inverse, weights=values, minlength=size)
        return np.where(place >= 0, sums[place], 0.0).astype(np.float32)

    def smallest(self, group: str, values: Doubles) -> Floats:
        """[N] least of ``values`` over the history entries in the candidate's group; NaN if none.

        (Most is the negative of the least of the negatives.)
        """
        size, inverse, place = self.groups[group]
        if not size:
            return np.full(len(self.candidates), np.nan, dtype=np.float32)
        least = np.full(size, np.inf)
        np.minimum.at(least, inverse, values)
        return np.where(place >= 0, least[place], np.nan).astype(np.float32)

    def same(self, values_B: Doubles) -> Floats:
        """[N] one value of its user for every candidate; NaN if there is no history."""
        found = np.where(np.diff(self.history.offsets) > 0, values_B, np.nan)
        return found[self.user_of].astype(np.float32)

    def mean(self, values_H: npt.NDArray[Any]) -> Floats:
        """[N] the mean over the user's history."""
        return self.same(self.of_users(values_H) / np.maximum(np.diff(self.history.offsets), 1))


def _find_sorted(haystack: Ints, needles: Ints) -> Ints:
    """[N] index of each needle in rising, distinct values; -1 where it is not there."""
    if not len(haystack):
        return np.full(len(needles), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(haystack, needles), len(haystack) - 1)
    return np.where(haystack[place] == needles, place, -1).astype(np.int64)


def _own_count(pairs: Pairs) -> Floats:
    return pairs.own(pairs.history.count)


def _own_weight(pairs: Pairs) -> Floats:
    return pairs.own(pairs.weights)


def _own_share(pairs: Pairs) -> Floats:
    return pairs.own(pairs.share)


def _own_days_since(pairs: Pairs) -> Floats:
    return pairs.own(pairs.ages_days)


def _own_age(pairs: Pairs) -> Floats:
    return pairs.own((pairs.now_s - pairs.history.first_s) / DAY_S)


def _own_place(pairs: Pairs) -> Floats:
    """Place among the history's items by decayed count, from 1."""
    places = np.empty(len(pairs.weights), dtype=np.float32)
    order = np.lexsort((-pairs.weights, pairs.owner))
    places[order] = 1 + np.arange(len(places)) - pairs.history.offsets[pairs.owner]
    return pairs.own(places)


def _own_rate(pairs: Pairs) -> Floats:
    """Purchases in four weeks, since the first; an age below a week counts as one."""
    ages = np.maximum((pairs.now_s - pairs.history.first_s) / DAY_S, 7.0)
    return pairs.own(28.0 * pairs.history.count / ages)


def _own_acceleration(pairs: Pairs) -> Floats:
    """Log of the decayed count over what it would be had all purchases been spread evenly."""
    ages = np.maximum((pairs.now_s - pairs.history.first_s) / DAY_S, 1.0)
    days = pairs.half_life_days / np.log(2.0)
    even = pairs.history.count * days * -np.expm1(-ages / days) / ages
    return pairs.own(np.log(pairs.weights / np.maximum(even, 1e-6)))


def _gap_mean(history: Histories) -> npt.NDArray[np.float64]:
    """[H] mean days between purchases; NaN with fewer than two."""
    span = (history.last_s - history.first_s) / DAY_S
    gaps = history.count.astype(np.float64) - 1.0
    return np.where(gaps > 0, span / np.maximum(gaps, 1.0), np.nan)


def _gap_deviation(history: Histories) -> npt.NDArray[np.float64]:
    """[H] standard deviation of the days between purchases; NaN with fewer than three."""
    gaps = history.count.astype(np.float64) - 1.0
    variance = history.gap_sq / np.maximum(gaps, 1.0) - _gap_mean(history) ** 2
    return np.where(gaps > 1, np.sqrt(np.maximum(variance, 0.0)), np.nan)


def _own_gap_mean(pairs: Pairs) -> Floats:
    return pairs.own(_gap_mean(pairs.history))


def _own_gap_deviation(pairs: Pairs) -> Floats:
    return pairs.own(_gap_deviation(pairs.history))


def _own_gap_last(pairs: Pairs) -> Floats:
    """Days between the last two purchases."""
    return pairs.own(np.where(pairs.history.count > 1, pairs.history.gap_last, np.nan))


def _own_due(pairs: Pairs) -> Floats:
    """Days since the last purchase over the usual gap: 1 is exactly due."""
    return pairs.own(pairs.ages_days / np.maximum(_gap_mean(pairs.history), 0.5))


def _own_overdue(pairs: Pairs) -> Floats:
    """How many standard deviations past the usual gap."""
    gap = _gap_mean(pairs.history)
    deviation = np.maximum(_gap_deviation(pairs.history), 1.0)
    return pairs.own((pairs.ages_days - gap) / deviation)


def _group_share(group: str) -> Callable[[Pairs], Floats]:
    def share(pairs: Pairs) -> Floats:
        return pairs.summed(group, pairs.share)

    return share


def _group_weight(group: str) -> Callable[[Pairs], Floats]:
    def weight(pairs: Pairs) -> Floats:
        return pairs.summed(group, pairs.weights)

    return weight


def _group_days_since(group: str) -> Callable[[Pairs], Floats]:
    def days_since(pairs: Pairs) -> Floats:
        return pairs.smallest(group, pairs.ages_days)

    return days_since


def _group_top(group: str) -> Callable[[Pairs], Floats]:
    """Decayed count of the item that the user buys most in the candidate's group."""

    def top(pairs: Pairs) -> Floats:
        return -pairs.smallest(group, -pairs.weights)

    return top


def _group_due(group: str) -> Callable[[Pairs], Floats]:
    """Days since the last purchase in the group over the mean days between two of them."""

    def due(pairs: Pairs) -> Floats:
        history = pairs.history
        days = pairs.smallest(group, pairs.ages_days)
        ages = -pairs.smallest(group, -(pairs.now_s - pairs.history.first_s) / DAY_S)
        span = ages - days
        gaps = pairs.summed(group, history.count.astype(np.float64)) - 1.0
        gap = np.where(gaps > 0, span / np.maximum(gaps, 1.0), np.nan)
        return (days / np.maximum(gap, 0.5)).astype(np.float32)

    return due


def _share_of_group(group: str) -> Callable[[Pairs], Floats]:
    """The candidate's part of what the user buys in its group."""

    def share(pairs: Pairs) -> Floats:
        own = np.nan_to_num(pairs.own(pairs.weights))
        total = pairs.summed(group, pairs.weights)
        return np.where(total > 0, own / np.maximum(total, 1e-9), np.nan).astype(np.float32)

    return share


def _price_to_usual(pairs: Pairs) -> Floats:
    """Log of the candidate's price over the user's mean price in its subcategory."""
    paid = pairs.catalogue.price[pairs.history.item_row].astype(np.float64)
    priced = np.isfinite(paid) & pairs.known
    weights = np.where(priced, pairs.weights, 0.0)
    spent = pairs.summed("subcategory", np.where(priced, paid, 0.0) * weights)
    usual = spent / np.maximum(pairs.summed("subcategory", weights), 1e-9)
    price = pairs.catalogue.price[pairs.candidates]
    known = (usual > 0) & (price > 0)
    ratio = np.where(known, price, 1.0) / np.where(known, usual, 1.0)
    return np.where(known, np.log(ratio), np.nan).astype(np.float32)


def _history_new_share(pairs: Pairs) -> Floats:
    """Share of the history's items that were first bought in the last 28 days."""
    new = pairs.history.first_s >= pairs.now_s - 28 * DAY_S
    return pairs.mean(new)


def _history_once_share(pairs: Pairs) -> Floats:
    """Share of the history's items that were bought once."""
    return pairs.mean(pairs.history.count <= 1)


def _history_concentration(pairs: Pairs) -> Floats:
    """Sum of the squared shares of the decayed counts (Herfindahl): 1 is a single item."""
    return pairs.same(pairs.of_users(pairs.share**2))


_FUNCTIONS: dict[str, Callable[[Pairs], Floats]] = {
    "own_count": _own_count,
    "own_weight": _own_weight,
    "own_share": _own_share,
    "own_days_since": _own_days_since,
    "own_age": _own_age,
    "own_place": _own_place,
    "own_rate": _own_rate,
    "own_acceleration": _own_acceleration,
    "own_gap_mean": _own_gap_mean,
    "own_gap_deviation": _own_gap_deviation,
    "own_gap_last": _own_gap_last,
    "own_due": _own_due,
    "own_overdue": _own_overdue,
    "department_share": _group_share("department"),
    "category_weight": _group_weight("category"),
    "category_share": _group_share("category"),
    "category_days_since": _group_days_since("category"),
    "subcategory_weight": _group_weight("subcategory"),
    "subcategory_share": _group_share("subcategory"),
    "subcategory_days_since": _group_days_since("subcategory"),
    "share_of_subcategory": _share_of_group("subcategory"),
    "brand_share": _group_share("brand"),
    "brand_days_since": _group_days_since("brand"),
    "brand_subcategory_weight": _group_weight("brand_subcategory"),
    "subcategory_top": _group_top("subcategory"),
    "subcategory_due": _group_due("subcategory"),
    "brand_subcategory_top": _group_top("brand_subcategory"),
    "brand_subcategory_due": _group_due("brand_subcategory"),
    "price_to_usual": _price_to_usual,
    "history_new_share": _history_new_share,
    "history_once_share": _history_once_share,
    "history_concentration": _history_concentration,
}

PAIR_FEATURES = tuple(
    Feature(name, Entity.PAIR, "pair", "float32", Encoding.NUMERIC, buckets=24)
    for name in _FUNCTIONS
)
"""The schema of the columns of ``pair_values``."""


def pair_values(
    histories: Histories,
    user_of: Ints,
    candidate_rows: Ints,
    catalogue: PairCatalogue,
    now_s: Ints,
    half_life_days: float = 56.0,
) -> Floats:
    """[P, N] every pair feature of B users and their candidates; NaN if missing.

    Args:
        histories: of B users.
        user_of: [N] the user of each candidate, from 0.
        candidate_rows: [N]
        catalogue: the items.
        now_s: [B] epoch seconds.
        half_life_days: of the decayed counts.
    """
    pairs = Pairs(histories, (user_of, candidate_rows), catalogue, now_s, half_life_days)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([function(pairs) for function in _FUNCTIONS.values()])
