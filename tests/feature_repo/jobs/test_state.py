from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.state import UserState, fold
from feature_repo.jobs.state import stage_edges, user_ranges, write_user_state
from tests.feature_repo.jobs.shops import START, Id, database, day, purchase, write_shop

HISTORY_ITEMS = 3
Line = tuple[int, int, int]
"""user, item, hours after the start"""

lines = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(0, 400)),
    min_size=1,
    max_size=60,
    unique=True,
)


def as_number(value: int) -> Id:
    return value


def as_text(value: int) -> Id:
    return f"é{value}" if value % 2 else f"Z{value}"


def bulk_state(
    dataset: Dataset, edges: Sequence[datetime], partition_events: int
) -> tuple[dict[Id, list[dict[str, Any]]], dict[Id, list[dict[str, Any]]]]:
    """DuckDB's histories and activities of each user, in the order of time."""
    with database() as connection:
        write_user_state(connection, dataset, edges, partition_events)
    found = []
    for view in ("user_history", "user_activity"):
        by_user: dict[Id, list[dict[str, Any]]] = defaultdict(list)
        for row in pq.read_table(dataset.features / f"{view}.parquet").to_pylist():
            by_user[row["user_id"]].append(row)
        found.append(by_user)
    return found[0], found[1]


def folded_states(
    events: Sequence[dict[str, Any]], edges: Sequence[datetime], half_life_days: float
) -> dict[Id, list[UserState]]:
    """Each user's state at every edge that follows a purchase, by the contract's fold."""
    baskets: dict[Id, dict[datetime, list[Id]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        baskets[event["user_id"]][event["event_timestamp"]].append(event["item_id"])
    found: dict[Id, list[UserState]] = defaultdict(list)
    for user, by_time in baskets.items():
        state = UserState()
        for edge, before in zip(edges, [START - timedelta(days=1), *edges], strict=False):
            times = [time for time in sorted(by_time) if before <= time < edge]
            for time in times:
                state = fold(
                    state,
                    by_time[time],
                    int(time.timestamp()),
                    history_items=HISTORY_ITEMS,
                    half_life_days=half_life_days,
                )
            if times:
                found[user].append(state)
    return found


@pytest.mark.parametrize("make_id", [as_number, as_text])
@settings(max_examples=40)
@given(lines=lines, partition_events=st.integers(1, 40))
def test_the_bulk_state_is_the_folded_state(
    make_id: Callable[[int], Id], lines: list[Line], partition_events: int
) -> None:
    half_life_days = 5.0
    events = [purchase(make_id(u), make_id(i), day(h / 24)) for u, i, h in lines]
    edges = [day(7 * week) for week in range(1, 8)]

    with tempfile.TemporaryDirectory() as folder:
        dataset = write_shop(
            Path(folder), events, history_items=HISTORY_ITEMS, half_life_days=half_life_days
        )
        histories, _ = bulk_state(dataset, edges, partition_events)

    expected = folded_states(events, edges, half_life_days)
    assert set(histories) == set(expected)
    for user, states in expected.items():
        assert len(histories[user]) == len(states)
        for row, state in zip(histories[user], states, strict=True):
            assert row["event_timestamp"].timestamp() == state.last_s
            for column, values in state.to_row().items():
                inexact = column in ("history_weight", "history_gap_sq", "history_gap_last")
                assert row[column] == (pytest.approx(values, rel=1e-6) if inexact else values)


def test_an_item_that_was_evicted_and_comes_back_starts_anew(tmp_path: Path) -> None:
    order = [1, 2, 3, 4, 1]  # item 4 evicts item 1
    events = [purchase(9, item, day(place)) for place, item in enumerate(order)]
    dataset = write_shop(tmp_path, events, history_items=3)

    histories, _ = bulk_state(dataset, [day(7)], partition_events=100)

    (row,) = histories[9]
    assert row["history_item_id"] == [1, 4, 3]
    assert row["history_count"] == [1, 1, 1]


def test_an_item_bought_with_a_lower_id_at_its_last_time_counts_as_above_it(
    tmp_path: Path,
) -> None:
    kept = [(1, 5), (1, 9), (2, 9), (3, 5)]  # (day, item): only 9 is bought after 5
    evicted = [(1, 5), (1, 4), (2, 6), (3, 5)]  # 4 ranks above 5 at day 1, 6 does at day 2
    for name, baskets, count in (("kept", kept, 2), ("evicted", evicted, 1)):
        events = [purchase(9, item, day(at)) for at, item in baskets]
        dataset = write_shop(tmp_path / name, events, history_items=2)

        histories, _ = bulk_state(dataset, [day(7)], partition_events=100)

        assert histories[9][-1]["history_item_id"][0] == 5
        assert histories[9][-1]["history_count"][0] == count


def test_activity_is_decayed_to_the_last_purchase_of_the_snapshot(tmp_path: Path) -> None:
    events = [
        purchase(1, 10, day(0), price=3.0, list_price=4.0, quantity=2),
        purchase(1, 11, day(0), price=1.0, list_price=None),
        purchase(1, 10, day(5), price=4.0, list_price=4.0),
        purchase(1, 12, day(20)),
    ]
    dataset = write_shop(tmp_path, events, half_life_days=5.0)

    _, activities = bulk_state(dataset, [day(7), day(14), day(21)], partition_events=100)

    first, second = activities[1]
    assert first["event_timestamp"] == day(5)
    assert (first["events_total"], first["sessions_total"]) == (3, 2)
    assert first["events_decayed"] == pytest.approx(2 * 1 / 2 + 1)
    assert first["sessions_decayed"] == pytest.approx(1 / 2 + 1)
    assert first["spend_decayed"] == pytest.approx((3.0 * 2 + 1.0) / 2 + 4.0)
    assert first["discount_rate"] == pytest.approx(1 - (3.0 * 2 + 4.0) / (4.0 * 2 + 4.0))
    assert first["first_event_s"] == int(day(0).timestamp())
    assert first["last_event_s"] == int(day(5).timestamp())
    assert second["events_total"] == 4  # nothing at day 14, where nothing new had happened


def test_only_purchases_make_the_state(tmp_path: Path) -> None:
    views = [purchase(user, 11, day(1), event_type="view") for user in (1, 2, 3)]
    dataset = write_shop(tmp_path, [purchase(1, 10, day(0)), *views])

    # One event a range of users: that of user 3 has no purchase.
    histories, activities = bulk_state(dataset, [day(7)], partition_events=1)

    assert set(histories) == set(activities) == {1}
    assert histories[1][0]["history_item_id"] == [10]
    assert activities[1][0]["events_total"] == 1


def test_ranges_of_users_cover_everybody_once(tmp_path: Path) -> None:
    events = [purchase(u, i, day(i)) for u in range(10) for i in range(5)]
    dataset = write_shop(tmp_path, events)

    with database() as connection:
        path = dataset.canonical / "events.parquet"
        ranges = user_ranges(connection, path, 7)
        counts = [
            connection.execute(f"SELECT count(*) FROM '{path}' WHERE {part.condition}").fetchall()
            for part in ranges
        ]

    assert len(ranges) > 3
    assert sum(count[0][0] for count in counts) == len(events)


def test_a_half_life_too_short_for_the_span_is_refused(tmp_path: Path) -> None:
    events = [purchase(1, 10, day(0)), purchase(1, 10, day(40))]
    dataset = write_shop(tmp_path, events, half_life_days=0.01)

    with pytest.raises(ConfigError, match=r"half-lives; at most 900"):
        bulk_state(dataset, [day(49)], partition_events=100)


def test_edges_carry_the_beginnings_of_their_windows() -> None:
    with database() as connection:
        stage_edges(connection, [day(7)])
        (row,) = connection.execute("SELECT edge, just_before, edge_28d FROM edges").fetchall()

    assert row[0] == day(7)
    assert row[0] - row[1] == timedelta(microseconds=1)
    assert math.isclose((row[0] - row[2]).total_seconds(), 28 * 86_400)
