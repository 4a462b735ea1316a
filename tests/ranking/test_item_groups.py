from __future__ import annotations

import numpy as np
import pyarrow as pa

from ranking.item_groups import DAY_S, groups_of_table, item_groups, least_bought

NOW_S = 1000 * DAY_S


def test_the_long_tail_has_at_most_a_fifth_of_the_buyers() -> None:
    buyers = np.array([0, 80, 10, 5, 5, 0])

    assert np.flatnonzero(least_bought(buyers)).tolist() == [0, 2, 3, 4, 5]
    assert least_bought(np.array([10, 10])).tolist() == [False, False]


def test_groups_are_told_by_age_brand_and_buyers() -> None:
    buyers = np.array([0, 80, 10, 5, 85])
    first = np.array([np.nan, NOW_S - 10 * DAY_S, NOW_S - 500 * DAY_S, np.nan, 0.0])
    brand = np.array([0, 1, 2, 2, 1])

    found = item_groups(buyers, first, brand, NOW_S)

    assert {name: np.flatnonzero(own).tolist() for name, own in found.items()} == {
        "new items": [1],
        "small brands": [2, 3],
        "long tail": [2, 3],
    }


def test_a_shop_without_brands_and_times_has_the_long_tail_alone() -> None:
    assert list(item_groups(np.array([0, 1, 9]), None, None, NOW_S)) == ["long tail"]


def test_a_table_has_the_unknown_item_in_front() -> None:
    items = pa.table({"item_id": [1, 2], "buyers_total": [1, 9], "brand": ["a", None]})

    found = groups_of_table(items, NOW_S)

    assert found["long tail"].tolist() == [False, True, False]
    assert found["small brands"].tolist() == [False, False, False]
    assert groups_of_table(pa.table({"item_id": [1]}), NOW_S) == {}
