"""The loop behind ``pairs.pair_values``, compiled at its first call and kept on disk (Numba).

B users, H entries of their histories, G groups of items, R item rows, N candidates, P features, T
slots of a hash table of one user's keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Codes = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MEANING = {
    "own_count": "Purchases of the item.",
    "own_weight": "Its decayed count.",
    "own_share": "Part of the decayed count of everything in the user's history.",
    "own_days_since": "Days since it was last bought.",
    "own_age": "Days since it was first bought.",
    "own_place": "Its place among the history's items by decayed count, from 1.",
    "own_rate": "Purchases in four weeks, since the first; an age below a week counts as one.",
    "own_acceleration": (
        "Log of the decayed count over what it would be had all purchases been spread evenly."
    ),
    "own_gap_mean": "Mean days between purchases; none with fewer than two.",
    "own_gap_deviation": "Standard deviation of those days; none with fewer than three purchases.",
    "own_gap_last": "Days between the last two purchases.",
    "own_due": "Days since the last purchase over the usual gap: 1 is exactly due.",
    "own_overdue": "How many standard deviations past the usual gap.",
    "department_share": "Part of the decayed count that is of the item's department.",
    "category_weight": "Decayed count of the item's category.",
    "category_share": "Part of the decayed count that is of the category.",
    "category_days_since": "Days since something of the category was last bought.",
    "subcategory_weight": "Decayed count of the item's subcategory.",
    "subcategory_share": "Part of the decayed count that is of the subcategory.",
    "subcategory_days_since": "Days since something of the subcategory was last bought.",
    "share_of_subcategory": "The item's part of what the user buys in its subcategory.",
    "brand_share": "Part of the decayed count that is of the item's brand.",
    "brand_days_since": "Days since something of the brand was last bought.",
    "brand_subcategory_weight": "Decayed count of the brand within the subcategory.",
    "subcategory_top": "Decayed count of what the user buys most in the subcategory.",
    "subcategory_due": "Days since the last purchase in it over the mean days between two of them.",
    "brand_subcategory_top": "As ``subcategory_top``, of the brand in the subcategory.",
    "brand_subcategory_due": "As ``subcategory_due``, of the brand in the subcategory.",
    "price_to_usual": "Log of the price over the user's mean price in the subcategory.",
    "history_new_share": "Share of the history's items that were first bought in the last 28 days.",
    "history_once_share": "Share of the history's items that were bought once.",
    "history_concentration": (
        "Sum of the squared shares of the decayed counts (Herfindahl): 1 is a single item."
    ),
}
"""Of each feature, in the order of the rows that are written."""
NAMES = tuple(MEANING)
GROUPS = ("department", "category", "subcategory", "brand", "brand_subcategory")
"""Item attributes over which a history is summed, in the order of the codes that are read."""

(
    _OWN_COUNT,
    _OWN_WEIGHT,
    _OWN_SHARE,
    _OWN_DAYS_SINCE,
    _OWN_AGE,
    _OWN_PLACE,
    _OWN_RATE,
    _OWN_ACCELERATION,
    _OWN_GAP_MEAN,
    _OWN_GAP_DEVIATION,
    _OWN_GAP_LAST,
    _OWN_DUE,
    _OWN_OVERDUE,
    _DEPARTMENT_SHARE,
    _CATEGORY_WEIGHT,
    _CATEGORY_SHARE,
    _CATEGORY_DAYS_SINCE,
    _SUBCATEGORY_WEIGHT,
    _SUBCATEGORY_SHARE,
    _SUBCATEGORY_DAYS_SINCE,
    _SHARE_OF_SUBCATEGORY,
    _BRAND_SHARE,
    _BRAND_DAYS_SINCE,
    _BRAND_SUBCATEGORY_WEIGHT,
    _SUBCATEGORY_TOP,
    _SUBCATEGORY_DUE,
    _BRAND_SUBCATEGORY_TOP,
    _BRAND_SUBCATEGORY_DUE,
    _PRICE_TO_USUAL,
    _HISTORY_NEW_SHARE,
    _HISTORY_ONCE_SHARE,
    _HISTORY_CONCENTRATION,
) = range(len(NAMES))
_DEPARTMENT, _CATEGORY, _SUBCATEGORY, _BRAND, _BRAND_SUBCATEGORY = range(len(GROUPS))

_SUMS = 8
_WEIGHT, _SHARE, _COUNT, _DAYS, _AGE, _TOP, _PRICED, _SPENT = range(_SUMS)
"""What is known of a user's purchases in one group: sums, the least days since, the greatest age
and decayed count; last, the decayed count of what has a price, and the same times its price."""

_DAY_S = 86_400.0
_NEW_DAYS = 28.0
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)."""


class Entries(NamedTuple):
    """Histories of B users; see ``state.Histories``."""

    offsets: Ints
    item_row: Ints
    counts: Floats
    weight: Floats
    first_s: Ints
    last_s: Ints
    gap_sq: Floats
    gap_last: Floats


class _Scratch(NamedTuple):
    """What is known of one user, whose history has at most M entries."""

    weights: Doubles
    """[M] decayed counts now."""
    places: Ints
    """[M] places by decayed count, from 1."""
    keys: Ints
    """[1 + G, T] hash tables of item rows, and of the codes of each group; -1 is free."""
    entries: Ints
    """[T] the entry of the item row in a slot."""
    sums: Doubles
    """[G, T, _SUMS] of the group in a slot."""
    user: Doubles
    """[4] sum of the decayed counts, and the features of the history as a whole."""


@njit(nogil=True, cache=True)
def _slot(keys: Ints, key: int) -> np.int64:
    """Where a key is, or would be put."""
    mask = np.uint64(len(keys) - 1)
    place = (np.uint64(key) * _MULTIPLIER >> np.uint64(32)) & mask
    while keys[place] != key and keys[place] != -1:
        place = (place + np.uint64(1)) & mask
    return np.int64(place)


@njit(nogil=True, cache=True)
def _read_user(
    entries: Entries,
    start: int,
    stop: int,
    codes: Codes,
    price: Floats,
    now_s: int,
    half_life_days: float,
    scratch: _Scratch,
) -> None:
    """Write what is known of one user into the scratch."""
    weights, places, keys, entry_of, sums, user = scratch
    size = stop - start
    keys[:] = -1
    total, new, once = 0.0, 0.0, 0.0
    for at in range(size):
        entry = start + at
        days = (now_s - entries.last_s[entry]) / _DAY_S
        weights[at] = np.float32(entries.weight[entry] * np.exp2(-days / half_life_days))
        total += weights[at]
        new += (now_s - entries.first_s[entry]) / _DAY_S <= _NEW_DAYS
        once += entries.counts[entry] <= 1
    order = np.argsort(-weights[:size], kind="mergesort")
    concentration = 0.0
    for place in range(size):
        places[order[place]] = place + 1
    for at in range(size):
        entry = start + at
        row = entries.item_row[entry]
        slot = _slot(keys[0], row)
        if keys[0, slot] == -1:
            keys[0, slot], entry_of[slot] = row, at
        weight = weights[at]
        share = weight / max(total, 1e-9)
        concentration += share * share
        days = (now_s - entries.last_s[entry]) / _DAY_S
        age = (now_s - entries.first_s[entry]) / _DAY_S
        priced = weight if row > 0 and np.isfinite(price[row]) else 0.0
        for group in range(len(codes)):
            code = codes[group, row]
            slot = _slot(keys[1 + group], code)
            mine = sums[group, slot]
            if keys[1 + group, slot] == -1:
                keys[1 + group, slot] = code
                mine[:] = 0.0
                mine[_DAYS], mine[_AGE], mine[_TOP] = days, age, weight
            mine[_WEIGHT] += weight
            mine[_SHARE] += share
            mine[_COUNT] += entries.counts[entry]
            mine[_DAYS] = min(mine[_DAYS], days)
            mine[_AGE] = max(mine[_AGE], age)
            mine[_TOP] = max(mine[_TOP], weight)
            mine[_PRICED] += priced
            if priced > 0.0:
                mine[_SPENT] += priced * price[row]
    user[0] = total
    user[1] = new / size if size else np.nan
    user[2] = once / size if size else np.nan
    user[3] = concentration if size else np.nan


@njit(nogil=True, cache=True)
def _write_own(
    found: Floats,
    place: int,
    entries: Entries,
    entry: int,
    at: int,
    now_s: int,
    half_life_days: float,
    scratch: _Scratch,
) -> None:
    """What the user did with the candidate itself."""
    weight = scratch.weights[at]
    count = np.float64(entries.counts[entry])
    days = (now_s - entries.last_s[entry]) / _DAY_S
    age = (now_s - entries.first_s[entry]) / _DAY_S
    found[_OWN_COUNT, place] = count
    found[_OWN_WEIGHT, place] = weight
    found[_OWN_SHARE, place] = weight / max(scratch.user[0], 1e-9)
    found[_OWN_DAYS_SINCE, place] = days
    found[_OWN_AGE, place] = age
    found[_OWN_PLACE, place] = scratch.places[at]
    found[_OWN_RATE, place] = 28.0 * count / max(age, 7.0)
    mean_days = half_life_days / np.log(2.0)
    long = max(age, 1.0)
    even = count * mean_days * -np.expm1(-long / mean_days) / long
    found[_OWN_ACCELERATION, place] = np.log(weight / max(even, 1e-6))
    gaps = count - 1.0
    if gaps <= 0.0:
        return
    gap = (age - days) / max(gaps, 1.0)
    found[_OWN_GAP_MEAN, place] = gap
    found[_OWN_GAP_LAST, place] = entries.gap_last[entry]
    found[_OWN_DUE, place] = days / max(gap, 0.5)
    if gaps > 1.0:
        variance = entries.gap_sq[entry] / gaps - gap * gap
        deviation = np.sqrt(max(variance, 0.0))
        found[_OWN_GAP_DEVIATION, place] = deviation
        found[_OWN_OVERDUE, place] = (days - gap) / max(deviation, 1.0)


@njit(nogil=True, cache=True)
def _due(mine: Doubles) -> float:
    """Days since the last purchase in a group over the mean days between two of them."""
    gaps = mine[_COUNT] - 1.0
    if gaps <= 0.0:
        return np.nan
    gap = (mine[_AGE] - mine[_DAYS]) / max(gaps, 1.0)
    due: float = mine[_DAYS] / max(gap, 0.5)
    return due


@njit(nogil=True, cache=True)
def _write_groups(
    found: Floats, place: int, row: int, codes: Codes, price: Floats, scratch: _Scratch, own: float
) -> None:
    """What the user did with the candidate's groups; ``own`` is its own decayed count, or 0."""
    found[_DEPARTMENT_SHARE, place] = 0.0
    found[_CATEGORY_WEIGHT, place] = 0.0
    found[_CATEGORY_SHARE, place] = 0.0
    found[_SUBCATEGORY_WEIGHT, place] = 0.0
    found[_SUBCATEGORY_SHARE, place] = 0.0
    found[_BRAND_SHARE, place] = 0.0
    found[_BRAND_SUBCATEGORY_WEIGHT, place] = 0.0
    for group in range(len(codes)):
        code = codes[group, row]
        slot = _slot(scratch.keys[1 + group], code)
        if code == 0 or scratch.keys[1 + group, slot] == -1:
            continue
        mine = scratch.sums[group, slot]
        if group == _DEPARTMENT:
            found[_DEPARTMENT_SHARE, place] = mine[_SHARE]
        elif group == _CATEGORY:
            found[_CATEGORY_WEIGHT, place] = mine[_WEIGHT]
            found[_CATEGORY_SHARE, place] = mine[_SHARE]
            found[_CATEGORY_DAYS_SINCE, place] = mine[_DAYS]
        elif group == _SUBCATEGORY:
            found[_SUBCATEGORY_WEIGHT, place] = mine[_WEIGHT]
            found[_SUBCATEGORY_SHARE, place] = mine[_SHARE]
            found[_SUBCATEGORY_DAYS_SINCE, place] = mine[_DAYS]
            found[_SUBCATEGORY_TOP, place] = mine[_TOP]
            found[_SUBCATEGORY_DUE, place] = _due(mine)
            if mine[_WEIGHT] > 0.0:
                found[_SHARE_OF_SUBCATEGORY, place] = own / max(mine[_WEIGHT], 1e-9)
            usual = mine[_SPENT] / max(mine[_PRICED], 1e-9)
            if usual > 0.0 and price[row] > 0.0:
                found[_PRICE_TO_USUAL, place] = np.log(price[row] / usual)
        elif group == _BRAND:
            found[_BRAND_SHARE, place] = mine[_SHARE]
            found[_BRAND_DAYS_SINCE, place] = mine[_DAYS]
        else:
            found[_BRAND_SUBCATEGORY_WEIGHT, place] = mine[_WEIGHT]
            found[_BRAND_SUBCATEGORY_TOP, place] = mine[_TOP]
            found[_BRAND_SUBCATEGORY_DUE, place] = _due(mine)


@njit(nogil=True, cache=True)
def write_pairs(
    found: Floats,
    entries: Entries,
    candidates: tuple[Ints, Ints],
    codes: Codes,
    price: Floats,
    now_s: Ints,
    half_life_days: float,
) -> None:
    """Write every feature of B users and their N candidates.

    Args:
        found: [P, N], NaN; is written.
        entries: the histories of B users.
        candidates: [N] user of each, from 0, those of one user together; [N] item row of each.
        codes: [G, R] of each item row; 0 where missing.
        price: [R] of each item row; NaN where unknown.
        now_s: [B] epoch seconds.
        half_life_days: of the decayed counts.
    """
    user_of, rows = candidates
    most = 1
    for user in range(len(entries.offsets) - 1):
        most = max(most, entries.offsets[user + 1] - entries.offsets[user])
    slots = 4
    while slots < 2 * most:
        slots *= 2
    scratch = _Scratch(
        np.empty(most),
        np.empty(most, np.int64),
        np.empty((1 + len(codes), slots), np.int64),
        np.empty(slots, np.int64),
        np.empty((len(codes), slots, _SUMS)),
        np.empty(4),
    )
    current = -1
    for place in range(len(rows)):
        user, row = user_of[place], rows[place]
        start = entries.offsets[user]
        if user != current:
            current = user
            stop = entries.offsets[user + 1]
            _read_user(entries, start, stop, codes, price, now_s[user], half_life_days, scratch)
        own = 0.0
        slot = _slot(scratch.keys[0], row)
        if scratch.keys[0, slot] == row:
            at = scratch.entries[slot]
            own = scratch.weights[at]
            _write_own(found, place, entries, start + at, at, now_s[user], half_life_days, scratch)
        _write_groups(found, place, row, codes, price, scratch, own)
        found[_HISTORY_NEW_SHARE, place] = scratch.user[1]
        found[_HISTORY_ONCE_SHARE, place] = scratch.user[2]
        found[_HISTORY_CONCENTRATION, place] = scratch.user[3]
