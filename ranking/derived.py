"""What follows from pair features, sources and item features: a loop over candidates, compiled at
its first call and kept on disk (Numba).

B users, R rows of the item vocabulary, N candidates, S sources.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from feature_repo.contract.pair_kernels import NAMES as PAIRS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

GAPS_OF_ALL = 2.0
"""Of a user's own gaps, that the usual gap of an item's buyers counts as."""

MEANING = {
    "num_sources": "How many sources name the item.",
    "best_rank": "Its best place among them.",
    "mean_reciprocal_rank": "The mean of 1 / (10 + place); 0 for a source that does not name it.",
    "own_share_of_visits": "Decayed purchases of the item over decayed visits.",
    "visits_since": "Days since it was last bought, in the user's usual days between visits.",
    "days_before_visit": "Days from its last purchase to the user's last visit: 0, bought then.",
    "gap_expected": (
        "Days between purchases: the user's usual gap, the less of them the nearer to the item's. "
        "A geometric mean in which the item's usual gap counts as GAPS_OF_ALL of the user's own."
    ),
    "due_expected": "Log of the days since the last purchase over that gap: 0 is exactly due.",
    "due_usual": "The same over the usual gap of the item's buyers.",
    "due_last": "The same over the user's last gap.",
    "department_lift": "Log of the user's share of purchases in the department over all users'.",
    "category_lift": "The same of the category.",
    "subcategory_lift": "The same of the subcategory.",
    "brand_lift": "The same of the brand.",
    "share_of_category_buyers": "The item's share of its category's recent buyers.",
    "share_of_subcategory_buyers": "Of its subcategory's.",
    "share_of_brand_subcategory_buyers": "Of its brand's within the subcategory.",
    "expected_in_subcategory": "Purchases of it if the user chose there as everybody does.",
    "expected_in_brand_subcategory": "The same within its brand in the subcategory.",
    "first_share": "Share of its recent buyers who had not bought it before.",
    "trend_7d": "Log of the last week's buyers over a week's usual share of the last four's.",
    "price_change": "Log of the recent price over the usual one.",
}
"""Of each column, in the order of the rows that are written."""
NAMES = tuple(MEANING)
(
    _NUM_SOURCES,
    _BEST_RANK,
    _MEAN_RECIPROCAL_RANK,
    _OWN_SHARE_OF_VISITS,
    _VISITS_SINCE,
    _DAYS_BEFORE_VISIT,
    _GAP_EXPECTED,
    _DUE_EXPECTED,
    _DUE_USUAL,
    _DUE_LAST,
    _DEPARTMENT_LIFT,
    _CATEGORY_LIFT,
    _SUBCATEGORY_LIFT,
    _BRAND_LIFT,
    _SHARE_OF_CATEGORY,
    _SHARE_OF_SUBCATEGORY,
    _SHARE_OF_BRAND_SUBCATEGORY,
    _EXPECTED_IN_SUBCATEGORY,
    _EXPECTED_IN_BRAND_SUBCATEGORY,
    _FIRST_SHARE,
    _TREND_7D,
    _PRICE_CHANGE,
) = range(len(NAMES))

_OWN_COUNT = PAIRS.index("own_count")
_OWN_WEIGHT = PAIRS.index("own_weight")
_OWN_DAYS_SINCE = PAIRS.index("own_days_since")
_OWN_GAP_MEAN = PAIRS.index("own_gap_mean")
_OWN_GAP_LAST = PAIRS.index("own_gap_last")
_DEPARTMENT_SHARE = PAIRS.index("department_share")
_CATEGORY_SHARE = PAIRS.index("category_share")
_SUBCATEGORY_SHARE = PAIRS.index("subcategory_share")
_BRAND_SHARE = PAIRS.index("brand_share")
_SUBCATEGORY_WEIGHT = PAIRS.index("subcategory_weight")
_BRAND_SUBCATEGORY_WEIGHT = PAIRS.index("brand_subcategory_weight")

ITEM_NUMBERS = (
    "gap_usual",
    "first_share",
    "trend_7d",
    "price_change",
    "all_department",
    "all_category",
    "all_subcategory",
    "all_brand",
    "in_category",
    "in_subcategory",
    "in_brand_subcategory",
)
"""Numbers of an item, of which its candidates' columns are made: the usual gap, columns of the same
names, its group's share of all recent buyers, and the item's share of its group's."""
(
    _USUAL,
    _FIRST,
    _TREND,
    _PRICE,
    _ALL_DEPARTMENT,
    _ALL_CATEGORY,
    _ALL_SUBCATEGORY,
    _ALL_BRAND,
    _IN_CATEGORY,
    _IN_SUBCATEGORY,
    _IN_BRAND_SUBCATEGORY,
) = range(len(ITEM_NUMBERS))


class Visits(NamedTuple):
    """What is known of the visits of B users; NaN where nothing is."""

    decayed: Floats
    """[B] decayed count of visits, as of the last event."""
    since: Floats
    """[B] days since the last event."""


@njit(nogil=True, cache=True)
def _log_due(days: float, gap: float) -> float:
    found: float = np.log(max(days, 0.25) / max(gap, 0.5))
    return found


@njit(nogil=True, cache=True)
def _lift(share: float, usual: float) -> float:
    found: float = np.log((share + 1e-4) / (usual + 1e-4))
    return found


@njit(nogil=True, cache=True)
def _gap_expected(count: float, own: float, usual: float) -> float:
    num_own = 0.0 if np.isnan(own) else count - 1.0
    num_usual = 0.0 if np.isnan(usual) else GAPS_OF_ALL
    if num_own + num_usual == 0.0:
        return np.nan
    logs = 0.0
    if num_own:
        logs += num_own * np.log(max(own, 0.5))
    if num_usual:
        logs += num_usual * np.log(max(usual, 0.5))
    found: float = np.exp(logs / (num_own + num_usual))
    return found


@njit(nogil=True, cache=True)
def write_derived(
    found: Floats,
    pairs: Floats,
    ranks: Floats,
    candidates: tuple[Ints, Ints],
    visits: Visits,
    items: Floats,
    half_life_days: float,
) -> None:
    """Write every column of N candidates.

    Args:
        found: [D, N] is written.
        pairs: [P, N] pair features.
        ranks: [N, S] places in the sources' lists; NaN where a source does not name the item.
        candidates: [N] user of each, [N] item row of each.
        visits: of B users.
        items: [R, K] ``ITEM_NUMBERS``.
        half_life_days: of the decayed count of visits.
    """
    user_of, rows = candidates
    num_sources = ranks.shape[1]
    for at in range(len(rows)):
        number, best, reciprocal = 0.0, np.nan, 0.0
        for source in range(num_sources):
            rank = ranks[at, source]
            if not np.isnan(rank):
                number += 1.0
                reciprocal += 1.0 / (10.0 + rank)
                best = rank if np.isnan(best) else min(best, rank)
        found[_NUM_SOURCES, at] = number
        found[_BEST_RANK, at] = best
        found[_MEAN_RECIPROCAL_RANK, at] = reciprocal / num_sources
        item = items[rows[at]]
        user = user_of[at]
        since = visits.since[user]
        decayed = visits.decayed[user] * np.exp2(-since / half_life_days)
        days, usual = pairs[_OWN_DAYS_SINCE, at], item[_USUAL]
        found[_OWN_SHARE_OF_VISITS, at] = pairs[_OWN_WEIGHT, at] / max(decayed, 1e-3)
        a_day = decayed * np.log(2.0) / half_life_days
        found[_VISITS_SINCE, at] = days * max(a_day, 1e-3)
        found[_DAYS_BEFORE_VISIT, at] = days - since
        gap = _gap_expected(pairs[_OWN_COUNT, at], pairs[_OWN_GAP_MEAN, at], usual)
        found[_GAP_EXPECTED, at] = gap
        found[_DUE_EXPECTED, at] = _log_due(days, gap)
        found[_DUE_USUAL, at] = _log_due(days, usual)
        found[_DUE_LAST, at] = _log_due(days, pairs[_OWN_GAP_LAST, at])
        found[_DEPARTMENT_LIFT, at] = _lift(pairs[_DEPARTMENT_SHARE, at], item[_ALL_DEPARTMENT])
        found[_CATEGORY_LIFT, at] = _lift(pairs[_CATEGORY_SHARE, at], item[_ALL_CATEGORY])
        found[_SUBCATEGORY_LIFT, at] = _lift(pairs[_SUBCATEGORY_SHARE, at], item[_ALL_SUBCATEGORY])
        found[_BRAND_LIFT, at] = _lift(pairs[_BRAND_SHARE, at], item[_ALL_BRAND])
        found[_SHARE_OF_CATEGORY, at] = item[_IN_CATEGORY]
        found[_SHARE_OF_SUBCATEGORY, at] = item[_IN_SUBCATEGORY]
        found[_SHARE_OF_BRAND_SUBCATEGORY, at] = item[_IN_BRAND_SUBCATEGORY]
        found[_EXPECTED_IN_SUBCATEGORY, at] = pairs[_SUBCATEGORY_WEIGHT, at] * item[_IN_SUBCATEGORY]
        found[_EXPECTED_IN_BRAND_SUBCATEGORY, at] = (
            pairs[_BRAND_SUBCATEGORY_WEIGHT, at] * item[_IN_BRAND_SUBCATEGORY]
        )
        found[_FIRST_SHARE, at] = item[_FIRST]
        found[_TREND_7D, at] = item[_TREND]
        found[_PRICE_CHANGE, at] = item[_PRICE]
