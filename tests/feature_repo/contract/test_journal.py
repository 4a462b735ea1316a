"""Folding in any order, against DuckDB's state of the same purchases."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.activity import Activity
from feature_repo.contract.journal import (
    ACTIVITY,
    HISTORY,
    LATE_S,
    SEEN,
    VIEWS,
    Journal,
    Rules,
    StoredUser,
    UserRow,
    fold_purchases,
)
from feature_repo.contract.marks import SECOND_US, Marks
from feature_repo.contract.purchases import Purchase
from feature_repo.contract.state import UserState
from feature_repo.jobs.state import write_user_state
from tests.feature_repo.jobs.shops import START, database, day, purchase, write_shop

RULES = Rules(history_items=3, half_life_days=5.0)
START_S = int(START.timestamp())


def bought(
    item: int, hour: float, key: str | None = None, segment: int = 1, **values: Any
) -> Purchase:
    found = {"quantity": 1, "price": 2.0, "log": "a", **values}
    time_s = START_S + int(hour * 3600)
    return Purchase(key or f"{item}@{hour}", item, time_s, segment=segment, **found)


def event(one: Purchase, user: int = 1) -> dict[str, Any]:
    at = day((one.time_s - START_S) / 86_400)
    values = {"quantity": one.quantity, "price": one.price, "list_price": None}
    return purchase(user, one.item_id, at, **values)


def bulk(purchases: Sequence[Purchase]) -> UserRow:
    """DuckDB's last row of a user who bought these."""
    with tempfile.TemporaryDirectory() as folder, database() as connection:
        dataset = write_shop(
            Path(folder),
            [event(one) for one in purchases],
            history_items=RULES.history_items,
            half_life_days=RULES.half_life_days,
        )
        write_user_state(connection, dataset, [day(7 * week) for week in range(1, 9)])
        rows = [
            pq.read_table(dataset.features / f"{view}.parquet").to_pylist()[-1] for view in VIEWS
        ]
    history, activity, seen = rows
    return UserRow(
        UserState.from_row(history), Activity.from_row(activity), tuple(seen["seen_item_id"])
    )


def totals(activity: Activity) -> dict[str, float]:
    """All columns but the share of discounts, which is null without list prices."""
    assert activity.discount_rate is None
    return {name: value for name, value in vars(activity).items() if value is not None}


def assert_same(found: UserRow, expected: UserRow) -> None:
    """All equal, but that of decayed sums the bulk keeps 24 bits."""
    assert [item for item, _ in found.history.items] == [i for i, _ in expected.history.items]
    for (_, mine), (_, theirs) in zip(found.history.items, expected.history.items, strict=True):
        assert vars(mine) == pytest.approx(vars(theirs), rel=1e-6)
    assert found.activity is not None
    assert expected.activity is not None
    assert totals(found.activity) == pytest.approx(totals(expected.activity), rel=1e-6)
    assert found.seen == expected.seen


purchases = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 160)), min_size=1, max_size=25, unique=True
)


@settings(max_examples=40, deadline=None)
@given(lines=purchases, order=st.randoms(use_true_random=False), size=st.integers(1, 7))
def test_purchases_in_any_order_and_repeated_make_the_bulk_state(
    lines: list[tuple[int, int]], order: random.Random, size: int
) -> None:
    all_of_them = [bought(item, hour) for item, hour in lines]
    sent = [*all_of_them, *order.choices(all_of_them, k=len(lines) // 2)]
    order.shuffle(sent)

    stored = StoredUser()
    for start in range(0, len(sent), size):
        stored = fold_purchases(stored, sent[start : start + size], Marks(), RULES)
        journal = Journal.from_json(json.loads(json.dumps(stored.journal.to_json())))
        assert journal == stored.journal
        stored = StoredUser(stored.row, stored.stamps_us, journal)

    assert_same(stored.row, bulk(all_of_them))


def test_a_purchase_that_comes_again_changes_nothing() -> None:
    once = fold_purchases(StoredUser(), [bought(1, 0)], Marks(), RULES)

    assert fold_purchases(once, [bought(1, 0)], Marks(), RULES) is once


def test_equal_lines_are_one_of_their_quantities_at_their_mean_price() -> None:
    found = fold_purchases(
        StoredUser(),
        [
            bought(1, 0, "a", quantity=2, price=3.0),
            bought(1, 0, "b", quantity=1, price=6.0),
            bought(1, 0, "c", quantity=2, price=None),
        ],
        Marks(),
        RULES,
    ).row

    assert found.activity is not None
    assert (found.activity.events_total, found.activity.sessions_total) == (1, 1)
    assert found.activity.spend_decayed == pytest.approx((2 * 3 + 1 * 6) / 3 * 5)


def materialised(row: UserRow, compaction: int) -> StoredUser:
    """A row as a materialisation leaves it, beside whatever journal there is."""
    last_s = row.history.last_s
    assert last_s is not None
    stamps = dict.fromkeys(VIEWS, last_s * SECOND_US + 2 * compaction)
    return StoredUser(row, stamps)


def test_after_a_materialisation_what_its_row_lacks_is_folded_again() -> None:
    old = [bought(1, 0), bought(2, 5)]
    compacted = bought(3, 20, segment=1)
    since = [bought(1, 6, segment=2), bought(4, 30, segment=2)]
    online = fold_purchases(StoredUser(), [*since, compacted], Marks(), RULES)
    new = materialised(bulk([*old, compacted]), compaction=1)
    marks = Marks(begun=1, done={1: {"a": 1}})

    found = fold_purchases(StoredUser(new.row, new.stamps_us, online.journal), [], marks, RULES)

    # The one at 6 h lies before the row's last event, and is counted in. Among the seen items,
    # whose times are not kept, it stays where it was.
    exact = bulk([*old, compacted, *since])
    assert_same(replace(found.row, seen=exact.seen), exact)
    assert (found.row.seen, exact.seen) == ((4, 3, 2, 1), (4, 3, 1, 2))
    assert found.stamps_us == dict.fromkeys(VIEWS, (START_S + 30 * 3600) * SECOND_US + 3)


def test_a_row_that_holds_more_has_a_later_time() -> None:
    row = bulk([bought(1, 0), bought(2, 5)])
    last_us = (START_S + 5 * 3600) * SECOND_US

    before = materialised(row, compaction=3)
    marks = Marks(begun=4, done={3: {"b": 9}})
    late = fold_purchases(before, [bought(1, 2)], marks, RULES)

    assert before.stamps_us[HISTORY] == last_us + 6
    assert late.stamps_us[HISTORY] == last_us + 9, "later than compaction 4, before 5"


def test_a_view_that_is_not_written_yet_is_taken_over_when_it_is() -> None:
    """A materialisation writes view after view, and feedback comes in between."""
    before = materialised(bulk([bought(1, 0)]), compaction=0)
    new = materialised(bulk([bought(1, 0), bought(2, 5), bought(3, 6)]), compaction=1)
    marks = Marks(begun=1, done={1: {"a": 1}})
    online = fold_purchases(before, [bought(2, 5), bought(3, 6)], marks, RULES)

    half = StoredUser(
        UserRow(new.row.history, online.row.activity, online.row.seen),
        {**online.stamps_us, HISTORY: new.stamps_us[HISTORY]},
        online.journal,
    )
    half = fold_purchases(half, [bought(4, 7, segment=2)], marks, RULES)
    whole = StoredUser(
        UserRow(half.row.history, new.row.activity, new.row.seen),
        {**half.stamps_us, ACTIVITY: new.stamps_us[ACTIVITY], SEEN: new.stamps_us[SEEN]},
        half.journal,
    )
    whole = fold_purchases(whole, [], marks, RULES)

    everything = [bought(1, 0), bought(2, 5), bought(3, 6), bought(4, 7)]
    assert_same(half.row, bulk(everything))
    assert_same(whole.row, bulk(everything))


def test_purchases_of_long_ago_are_settled_and_still_known() -> None:
    hours = LATE_S / 3600
    first, second = bought(1, 0), bought(2, hours + 1)

    found = fold_purchases(StoredUser(), [first], Marks(), RULES)
    found = fold_purchases(found, [second], Marks(), RULES)

    assert [one.purchase for one in found.journal.kept] == [second]
    assert fold_purchases(found, [first], Marks(), RULES) is found
    assert_same(found.row, bulk([first, second]))


def test_one_that_is_later_still_is_counted_in() -> None:
    hours = LATE_S / 3600
    known = [bought(1, 0), bought(1, 40), bought(2, hours + 60)]
    found = fold_purchases(StoredUser(), known, Marks(), RULES)

    found = fold_purchases(found, [bought(1, 20)], Marks(), RULES)

    exact = bulk([*known, bought(1, 20)])
    assert found.row.activity is not None
    assert exact.activity is not None
    assert totals(found.row.activity) == pytest.approx(totals(exact.activity), rel=1e-6)
    (_, mine), (_, theirs) = found.row.history.items[1], exact.history.items[1]
    assert (mine.count, mine.first_s, mine.last_s) == (3, theirs.first_s, theirs.last_s)
    assert mine.weight == pytest.approx(theirs.weight)
    assert mine.gap_sq == (40 / 24) ** 2, "as if there had been nothing between"


def test_the_row_of_a_known_user_that_was_lost_waits_for_the_next_materialisation() -> None:
    found = fold_purchases(StoredUser(), [bought(1, 50)], Marks(begun=7), RULES, known=True)
    again = fold_purchases(found, [bought(2, 60)], Marks(begun=7), RULES, known=True)
    new = materialised(bulk([bought(3, 0)]), compaction=0)

    whole = fold_purchases(
        StoredUser(new.row, new.stamps_us, again.journal), [], Marks(begun=7), RULES, known=True
    )

    assert max(again.stamps_us.values()) < 2 * SECOND_US < new.stamps_us[HISTORY]
    assert_same(whole.row, bulk([bought(3, 0), bought(1, 50), bought(2, 60)]))
    assert whole.stamps_us[HISTORY] == (START_S + 60 * 3600) * SECOND_US + 15


def test_after_a_materialisation_of_what_was_folded_late_ones_still_find_their_place() -> None:
    base = [bought(1, 0), bought(2, 5)]
    sent = [bought(1, 20), bought(3, 25)]
    stored = fold_purchases(materialised(bulk(base), 0), sent, Marks(), RULES)
    new = materialised(bulk([*base, *sent]), compaction=1)
    marks = Marks(begun=1, done={1: {"a": 1}})

    found = StoredUser(new.row, new.stamps_us, stored.journal)
    found = fold_purchases(found, [bought(1, 10, segment=2)], marks, RULES)

    assert_same(found.row, bulk([*base, *sent, bought(1, 10)]))
