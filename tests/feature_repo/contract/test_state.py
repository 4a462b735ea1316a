from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.columns import list_column
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.state import (
    DAY_S,
    HISTORY_COLUMNS,
    Histories,
    ItemState,
    UserState,
    fold,
)
from feature_repo.contract.vocabulary import Vocabulary

DAY = int(DAY_S)

Baskets = list[tuple[int, set[int]]]
"""Time in days and items, times rising."""


def folded(baskets: Baskets, **settings: Any) -> UserState:
    state = UserState()
    for day, items in baskets:
        state = fold(state, list(items), day * DAY, **settings)
    return state


def test_the_first_purchase_starts_an_item() -> None:
    state = fold(UserState(), [7], 100)

    assert state.items == (
        (7, ItemState(count=1, weight=1.0, first_s=100, last_s=100, gap_sq=0.0)),
    )
    assert state.last_s == 100


def test_a_further_purchase_counts_and_decays_and_adds_the_squared_gap() -> None:
    state = folded([(0, {7}), (56, {7}), (84, {7})])

    ((item, found),) = state.items
    assert (item, found.count, found.first_s, found.last_s) == (7, 3, 0, 84 * DAY)
    assert found.weight == pytest.approx(1 + (1 + 1 / 2) * 2**-0.5)
    assert found.gap_sq == pytest.approx(56**2 + 28**2)
    assert found.gap_last == 28


def test_the_half_life_is_a_setting() -> None:
    state = folded([(0, {7}), (10, {7})], half_life_days=5.0)

    assert state.items[0][1].weight == pytest.approx(1 + 1 / 4)


def test_items_come_by_last_time_then_by_id() -> None:
    state = folded([(0, {9, 1}), (1, {5, 3}), (2, {9})])

    assert [item for item, _ in state.items] == [9, 3, 5, 1]


def test_the_oldest_items_are_dropped_and_start_anew() -> None:
    baskets: Baskets = [(0, {1}), (1, {2}), (2, {3}), (3, {1})]

    state = folded(baskets, history_items=2)

    assert [item for item, _ in state.items] == [1, 3]
    assert state.items[0][1] == ItemState(1, 1.0, 3 * DAY, 3 * DAY, 0.0)


def test_of_one_basket_the_lowest_ids_are_kept() -> None:
    assert [item for item, _ in folded([(0, {5, 3, 9})], history_items=2).items] == [3, 5]


def test_an_item_twice_in_a_basket_counts_once() -> None:
    assert fold(UserState(), [7, 7], 0).items[0][1].count == 1


def test_strings_are_ids_too() -> None:
    state = fold(fold(UserState(), ["tea", "milk"], 0), ["tea"], 10)

    assert [item for item, _ in state.items] == ["tea", "milk"]


def test_the_state_before_stays_as_it_was() -> None:
    before = fold(UserState(), [7], 0)
    fold(before, [7, 8], 10)

    assert before == fold(UserState(), [7], 0)


@pytest.mark.parametrize("time_s", [99, 100])
def test_a_basket_must_be_later_than_the_state(time_s: int) -> None:
    with pytest.raises(BadInput, match=f"basket at {time_s} s is not later than the state's 100"):
        fold(fold(UserState(), [7], 100), [8], time_s)


def test_an_empty_state_has_no_time() -> None:
    assert UserState().last_s is None


DAYS_AND_ITEMS = st.lists(
    st.tuples(st.integers(1, 40), st.sets(st.integers(1, 6), min_size=1)), max_size=8
)


def rising(steps: list[tuple[int, set[int]]]) -> Baskets:
    days = np.cumsum([gap for gap, _ in steps]).tolist()
    return [(day, items) for day, (_, items) in zip(days, steps, strict=True)]


def by_definition(baskets: Baskets, item: int | str) -> ItemState:
    days = [day for day, items in baskets if item in items]
    return ItemState(
        count=len(days),
        weight=sum(2.0 ** (-(days[-1] - day) / 56) for day in days),
        first_s=days[0] * DAY,
        last_s=days[-1] * DAY,
        gap_sq=float(sum((b - a) ** 2 for a, b in pairwise(days))),
        gap_last=float(days[-1] - days[-2]) if len(days) > 1 else 0.0,
    )


@given(DAYS_AND_ITEMS)
def test_the_fold_is_the_definition(steps: list[tuple[int, set[int]]]) -> None:
    baskets = rising(steps)

    state = folded(baskets)

    assert {item for item, _ in state.items} == set().union(*(items for _, items in baskets))
    for item, found in state.items:
        expected = by_definition(baskets, item)
        assert found.weight == pytest.approx(expected.weight)
        assert found.gap_sq == pytest.approx(expected.gap_sq)
        assert found.gap_last == expected.gap_last
        assert (found.count, found.first_s, found.last_s) == (
            expected.count,
            expected.first_s,
            expected.last_s,
        )


@given(DAYS_AND_ITEMS, st.integers(1, 4))
def test_a_capped_state_holds_the_items_bought_last(
    steps: list[tuple[int, set[int]]], cap: int
) -> None:
    baskets = rising(steps)

    capped, whole = folded(baskets, history_items=cap), folded(baskets)

    assert [item for item, _ in capped.items] == [item for item, _ in whole.items[:cap]]


@given(DAYS_AND_ITEMS)
def test_a_row_read_back_is_the_state(steps: list[tuple[int, set[int]]]) -> None:
    state = folded(rising(steps))

    assert UserState.from_row(state.to_row()) == state


def test_null_lists_are_an_empty_history() -> None:
    assert UserState.from_row(dict.fromkeys(HISTORY_COLUMNS)) == UserState()
    assert UserState.from_row({}) == UserState()


def test_a_row_may_hold_arrays_as_the_online_store_returns_them() -> None:
    state = folded([(0, {1, 2}), (3, {2})])
    arrays = {name: np.array(values) for name, values in state.to_row().items()}

    read = UserState.from_row(arrays)

    assert read == state
    assert all(type(item) is int for item, _ in read.items)


def test_lists_of_unequal_length_are_refused() -> None:
    row = folded([(0, {1, 2})]).to_row() | {"history_count": [1]}

    with pytest.raises(BadInput, match=r"equally long; got .*'history_count': 1"):
        UserState.from_row(row)


# ---- histories of many users


ITEMS = Vocabulary.build([10, 20, 30], IdType.INT64)
STATES = [folded([(0, {10, 20}), (7, {20})]), UserState(), folded([(3, {30, 99})])]


def table(states: list[UserState]) -> pa.Table:
    whole, real = pa.int64(), pa.float32()
    types = [whole, whole, real, whole, whole, real, real]
    rows = [state.to_row() for state in states]
    return pa.table(
        {
            name: pa.array([row[name] or None for row in rows], pa.list_(kind))
            for name, kind in zip(HISTORY_COLUMNS, types, strict=True)
        }
    )


def test_histories_are_flat_with_offsets() -> None:
    found = Histories.from_table(table(STATES), ITEMS)

    assert len(found) == 3
    assert found.offsets.tolist() == [0, 2, 2, 4]
    assert found.item_row.tolist() == [2, 1, 3, 0]  # 99 is unknown
    assert found.count.tolist() == [2, 1, 1, 1]
    assert found.last_s.tolist() == [7 * DAY, 0, 3 * DAY, 3 * DAY]
    assert found.gap_sq.tolist() == [49, 0, 0, 0]
    assert found.gap_last.tolist() == [7, 0, 0, 0]


def test_a_part_has_the_histories_of_its_users_alone() -> None:
    whole = Histories.from_table(table(STATES), ITEMS)

    found = whole.part(1, 3)

    assert found.offsets.tolist() == [0, 0, 2]
    assert found.item_row.tolist() == [3, 0]
    assert found.last_s.tolist() == [3 * DAY, 3 * DAY]
    assert found.gap_last.tolist() == [0, 0]
    assert len(whole.part(1, 1)) == 0


def test_one_users_history_is_a_batch_of_one() -> None:
    found = Histories.from_table(table(STATES), ITEMS)

    assert len(found.of(1)) == 1
    assert found.of(1).offsets.tolist() == [0, 0]
    assert found.of(2).offsets.tolist() == [0, 2]
    assert found.of(2).item_row.tolist() == [3, 0]


def test_weights_decay_to_the_time_asked_for() -> None:
    found = Histories.from_table(table(STATES), ITEMS)
    now = np.array([7 + 56, 0, 3 + 28]) * DAY

    weights = found.weight_at(now, half_life_days=56.0)

    first = 1 + 2 ** (-7 / 56)
    expected = [first / 2, 2 ** (-63 / 56), 2**-0.5, 2**-0.5]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_allclose(found.weight_at(63 * DAY, 56.0)[:2], expected[:2], rtol=1e-6)


@given(DAYS_AND_ITEMS, st.integers(0, 100))
def test_the_weight_at_any_time_is_the_sum_over_purchases(
    steps: list[tuple[int, set[int]]], later: int
) -> None:
    baskets = rising(steps)
    now = sum(gap for gap, _ in steps) + later
    found = Histories.from_table(table([folded(baskets)]), ITEMS)

    weights = found.weight_at(now * DAY, 56.0)

    ids = [item for item, _ in folded(baskets).items]
    expected = [
        sum(2.0 ** (-(now - day) / 56) for day, items in baskets if item in items) for item in ids
    ]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_a_slice_or_several_chunks_read_alike() -> None:
    whole = table(STATES)
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2)])

    for part, users in ((chunked, [0, 1, 2]), (whole.slice(2), [2]), (whole.slice(3), [])):
        found = Histories.from_table(part, ITEMS)
        expected = [Histories.from_table(whole, ITEMS).of(user).item_row.tolist() for user in users]
        assert [found.of(place).item_row.tolist() for place in range(len(found))] == expected


def test_lists_that_do_not_match_are_refused_with_the_row() -> None:
    broken = table(STATES)
    place = broken.column_names.index("history_weight")
    weights = pa.array([[1.0, 1.0], None, [1.0]], pa.list_(pa.float32()))
    broken = broken.set_column(place, "history_weight", weights)

    with pytest.raises(BadInput, match="Row 2: history_weight has not as many values"):
        Histories.from_table(broken, ITEMS)


def test_list_columns_may_be_null_large_or_empty() -> None:
    values = [[1, 2], None, [], [3]]
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.int64())):
        flat, offsets = list_column(pa.table({"x": pa.array(values, kind)}), "x")
        assert (flat.to_pylist(), offsets.tolist()) == ([1, 2, 3], [0, 2, 2, 2, 3])
    flat, offsets = list_column(pa.table({"x": pa.nulls(2)}), "x")
    assert (flat.to_pylist(), offsets.tolist()) == ([], [0, 0, 0])


def test_a_missing_or_flat_column_is_named() -> None:
    with pytest.raises(BadInput, match=r"lack the column 'y'; they have \['x'\]"):
        list_column(pa.table({"x": [1]}), "y")
    with pytest.raises(BadInput, match="Column 'x' holds int64; expected lists"):
        list_column(pa.table({"x": [1]}), "x")
