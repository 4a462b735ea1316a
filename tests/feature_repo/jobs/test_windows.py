from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from feature_repo.contract.errors import BadInput
from feature_repo.jobs.windows import (
    cutoff_time,
    earlier_edges,
    empty_windows,
    midnight,
    shift_days,
    snapshot_edges,
    window_edges,
)

NEW_YORK = ZoneInfo("America/New_York")
PLAIN_UTC = ZoneInfo("UTC")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_windows_of_complete_journey_begin_at_local_midnights() -> None:
    edges = window_edges(
        utc("2017-01-01T11:53:26"),
        utc("2018-01-01T04:01:20"),
        NEW_YORK,
        cutoff=utc("2017-11-27T05:00"),
        window_days=28,
    )

    assert edges == (
        utc("2017-10-02T04:00"),  # week 41
        utc("2017-10-30T04:00"),  # week 45
        utc("2017-11-27T05:00"),  # week 49, after the clocks went back
        utc("2017-12-25T05:00"),  # end of week 52
    )


def test_without_a_cut_off_the_last_window_ends_after_the_last_event() -> None:
    edges = window_edges(utc("2020-01-01T10:00"), utc("2021-03-01T15:00"), PLAIN_UTC)

    assert edges[3] == utc("2021-03-02T00:00")
    assert [later - earlier for earlier, later in pairwise(edges)] == [timedelta(days=28)] * 3


def test_windows_shrink_until_eight_windows_of_history_remain() -> None:
    first = utc("2020-01-01T00:00")

    edges = window_edges(first, utc("2020-04-09T15:00"), PLAIN_UTC)  # 100 days

    days = (edges[1] - edges[0]).days
    assert days == 100 // (8 + 3)
    assert (edges[0] - first).days >= 8 * days


def test_a_cut_off_outside_the_data_is_an_empty_window() -> None:
    with pytest.raises(BadInput, match="leaves an empty window"):
        window_edges(utc("2020-01-01"), utc("2020-12-01"), PLAIN_UTC, cutoff=utc("2021-01-01"))


def test_a_span_too_short_for_windows_is_refused() -> None:
    with pytest.raises(BadInput, match="one day need at least 11"):
        window_edges(utc("2020-01-01"), utc("2020-01-05"), PLAIN_UTC)


def test_windows_that_begin_before_the_data_are_refused() -> None:
    with pytest.raises(BadInput, match="no event precedes them"):
        window_edges(utc("2020-01-01"), utc("2020-03-01"), PLAIN_UTC, window_days=28)


def test_days_shift_on_the_wall_clock() -> None:
    assert shift_days(utc("2017-10-30T04:00"), 28, NEW_YORK) == utc("2017-11-27T05:00")
    assert midnight(utc("2017-10-30T03:59"), NEW_YORK) == utc("2017-10-29T04:00")


def test_a_cut_off_without_a_zone_is_of_the_shops_zone() -> None:
    assert cutoff_time("2017-11-27", NEW_YORK) == utc("2017-11-27T05:00")
    assert cutoff_time("2017-11-27T05:00+00:00", NEW_YORK) == utc("2017-11-27T05:00")
    with pytest.raises(BadInput, match=r"data\.cutoff='soon' is not an ISO 8601 date"):
        cutoff_time("soon", NEW_YORK)


def test_windows_before_t0_leave_four_of_history() -> None:
    edges = window_edges(
        utc("2020-01-01"), utc("2020-08-01"), PLAIN_UTC, cutoff=utc("2020-07-01"), window_days=20
    )  # t0 is 2020-05-22

    found = earlier_edges(utc("2020-01-20"), edges, PLAIN_UTC)

    assert found == (utc("2020-04-12"), utc("2020-05-02"))  # 83 and 103 days after the first
    assert earlier_edges(edges[0] - timedelta(days=99), edges, PLAIN_UTC) == ()


def test_snapshots_hold_the_window_edges_and_span_the_events() -> None:
    first, last = utc("2020-01-01T10:00"), utc("2020-06-01T15:00")
    edges = window_edges(first, last, PLAIN_UTC, window_days=10)

    found = snapshot_edges(first, last, edges, 7, PLAIN_UTC)

    assert set(edges) <= set(found)
    assert found == sorted(set(found))
    assert found[0] <= first < found[1]
    assert last < found[-1]
    assert snapshot_edges(found[0], last, edges, 7, PLAIN_UTC) == found


def test_the_first_empty_window_is_named() -> None:
    edges = (utc("2020-01-01"), utc("2020-02-01"), utc("2020-03-01"), utc("2020-04-01"))

    assert empty_windows(edges, [3, 1, 2]) is None
    assert "[t1, t2) from 2020-02-01" in str(empty_windows(edges, [3, 0, 0]))
