"""Features of a user and a candidate, by hand."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.pairs import PAIR_FEATURES, PairCatalogue, pair_values
from feature_repo.contract.state import DAY_S, Histories
from feature_repo.contract.vocabulary import Vocabulary

DAY = int(DAY_S)
NOW = 1_000 * DAY
HALF_LIFE = 56.0
ITEMS = Vocabulary.build(pa.array([1, 2, 3, 4, 5]), IdType.INT64)

# Milk of two brands, bread, an item that nothing is known of, and milk that was never bought.
CATALOGUE = PairCatalogue.from_table(
    pa.table(
        {
            "item_id": [1, 2, 3, 4, 5],
            "department": ["dairy", "dairy", "bakery", None, "dairy"],
            "category": ["milk", "milk", "bread", None, "milk"],
            "subcategory": ["whole", "whole", "rye", None, "whole"],
            "brand": ["farm", "hill", "hill", None, "farm"],
            "price": [1.0, 3.0, 2.0, None, 4.0],
        }
    ),
    ITEMS,
)

# Item 2 six days ago, once; item 1 ten days ago, for the third time in gaps of 4 and 8 days; item
# 3 fifty-six days ago, twice, 14 days apart.
HISTORY = Histories(
    offsets=np.array([0, 3]),
    item_row=np.array([2, 1, 3]),
    count=np.array([1, 3, 2], dtype=np.float32),
    weight=np.array([1.0, 2.5, 1.5], dtype=np.float32),
    first_s=np.array([NOW - 6 * DAY, NOW - 22 * DAY, NOW - 70 * DAY]),
    last_s=np.array([NOW - 6 * DAY, NOW - 10 * DAY, NOW - 56 * DAY]),
    gap_sq=np.array([0.0, 4.0**2 + 8.0**2, 14.0**2], dtype=np.float32),
    gap_last=np.array([0.0, 8.0, 14.0], dtype=np.float32),
)
W2 = 1.0 * 2 ** (-6 / 56)
W1 = 2.5 * 2 ** (-10 / 56)
W3 = 1.5 * 2 ** (-56 / 56)
TOTAL = W1 + W2 + W3
CANDIDATES = np.array([1, 2, 3, 4, 5])
NAN = np.nan


def values_of(history: Histories, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """[K, P] the features of one user and K candidates."""
    user_of = np.zeros(len(rows), np.int64)
    return pair_values(history, user_of, rows, CATALOGUE, np.array([NOW]), HALF_LIFE).T


def column(name: str, history: Histories = HISTORY) -> list[float]:
    names = [feature.name for feature in PAIR_FEATURES]
    values = values_of(history, CANDIDATES)
    found: list[float] = values[:, names.index(name)].tolist()
    return found


def even(count: float, age: float) -> float:
    """Decayed count of purchases that are spread evenly over an age in days."""
    days = HALF_LIFE / log(2)
    return count / age * days * (1 - exp(-age / days))


BY_HAND = {
    "own_count": [3, 1, 2, NAN, NAN],
    "own_weight": [W1, W2, W3, NAN, NAN],
    "own_share": [W1 / TOTAL, W2 / TOTAL, W3 / TOTAL, NAN, NAN],
    "own_days_since": [10, 6, 56, NAN, NAN],
    "own_age": [22, 6, 70, NAN, NAN],
    "own_place": [1, 2, 3, NAN, NAN],
    "own_rate": [28 * 3 / 22, 28 * 1 / 7, 28 * 2 / 70, NAN, NAN],
    "own_acceleration": [
        log(W1 / even(3, 22)),
        log(W2 / even(1, 6)),
        log(W3 / even(2, 70)),
        NAN,
        NAN,
    ],
    "own_gap_mean": [12 / 2, NAN, 14, NAN, NAN],
    "own_gap_deviation": [sqrt((4**2 + 8**2) / 2 - 6**2), NAN, NAN, NAN, NAN],
    "own_gap_last": [8, NAN, 14, NAN, NAN],
    "own_due": [10 / 6, NAN, 56 / 14, NAN, NAN],
    "own_overdue": [(10 - 6) / 2, NAN, NAN, NAN, NAN],
    "department_share": [(W1 + W2) / TOTAL, (W1 + W2) / TOTAL, W3 / TOTAL, 0, (W1 + W2) / TOTAL],
    "category_weight": [W1 + W2, W1 + W2, W3, 0, W1 + W2],
    "category_share": [(W1 + W2) / TOTAL, (W1 + W2) / TOTAL, W3 / TOTAL, 0, (W1 + W2) / TOTAL],
    "category_days_since": [6, 6, 56, NAN, 6],
    "subcategory_weight": [W1 + W2, W1 + W2, W3, 0, W1 + W2],
    "subcategory_share": [(W1 + W2) / TOTAL, (W1 + W2) / TOTAL, W3 / TOTAL, 0, (W1 + W2) / TOTAL],
    "subcategory_days_since": [6, 6, 56, NAN, 6],
    "share_of_subcategory": [W1 / (W1 + W2), W2 / (W1 + W2), 1, NAN, 0],
    "subcategory_top": [max(W1, W2), max(W1, W2), W3, NAN, max(W1, W2)],
    # Four purchases of whole milk from 22 to 6 days ago; two of rye, 14 days apart.
    "subcategory_due": [6 / (16 / 3), 6 / (16 / 3), 56 / 14, NAN, 6 / (16 / 3)],
    "brand_share": [W1 / TOTAL, (W2 + W3) / TOTAL, (W2 + W3) / TOTAL, 0, W1 / TOTAL],
    "brand_days_since": [10, 6, 6, NAN, 10],
    "brand_subcategory_weight": [W1, W2, W3, 0, W1],
    "brand_subcategory_top": [W1, W2, W3, NAN, W1],
    "brand_subcategory_due": [10 / 6, NAN, 56 / 14, NAN, 10 / 6],
    "price_to_usual": [
        log(1.0 / ((W1 * 1.0 + W2 * 3.0) / (W1 + W2))),
        log(3.0 / ((W1 * 1.0 + W2 * 3.0) / (W1 + W2))),
        log(2.0 / 2.0),
        NAN,
        log(4.0 / ((W1 * 1.0 + W2 * 3.0) / (W1 + W2))),
    ],
    "history_new_share": [2 / 3] * 5,
    "history_once_share": [1 / 3] * 5,
    "history_concentration": [(W1**2 + W2**2 + W3**2) / TOTAL**2] * 5,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pair_features_are_as_by_hand(name: str) -> None:
    assert column(name) == pytest.approx(BY_HAND[name], rel=1e-5, nan_ok=True)


def test_every_pair_feature_is_computed_by_hand_above() -> None:
    assert {feature.name for feature in PAIR_FEATURES} == set(BY_HAND)


def test_a_user_without_history_has_no_own_features_and_no_shares() -> None:
    nothing = Histories(
        np.array([0, 0]),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros(0, np.float32),
    )

    values = values_of(nothing, CANDIDATES)

    assert np.isnan(column("own_weight", nothing)).all()
    assert np.isnan(column("history_concentration", nothing)).all()
    assert column("category_share", nothing) == [0.0] * 5
    assert not np.isinf(values).any()


def test_the_order_of_candidates_does_not_matter() -> None:
    order = np.array([4, 2, 0, 3, 1])

    values = values_of(HISTORY, CANDIDATES)
    shuffled = values_of(HISTORY, CANDIDATES[order])

    np.testing.assert_array_equal(values[order], shuffled)


def test_the_catalogue_reads_the_recent_price_where_there_is_one() -> None:
    items = pa.table(
        {
            "item_id": [1, 2],
            **{group: ["a", "b"] for group in ("department", "category", "subcategory", "brand")},
            "price": [1.0, 1.0],
            "price_28d": [2.0, None],
        }
    )

    found = PairCatalogue.from_table(items, ITEMS).price

    assert found[1] == 2.0
    assert np.isnan(found[[0, 2, 3]]).all()
