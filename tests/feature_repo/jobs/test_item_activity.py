from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.item_activity import write_item_activity
from feature_repo.jobs.state import stage_edges
from tests.feature_repo.jobs.shops import context, database, day, purchase, write_shop

WEEKLY = [day(7 * week) for week in range(1, 18)]


def activity(
    dataset: Dataset, edges: Sequence[datetime] = WEEKLY, partition_events: int = 1000
) -> list[dict[str, Any]]:
    with database() as connection:
        stage_edges(connection, edges)
        write_item_activity(connection, dataset, partition_events)
    rows: list[dict[str, Any]] = pq.read_table(
        dataset.features / "item_activity.parquet"
    ).to_pylist()
    return sorted(rows, key=lambda row: (row["item_id"], row["event_timestamp"]))


def as_of(rows: Sequence[dict[str, Any]], item: int, edge: datetime) -> dict[str, Any]:
    """The row that is known just before an edge."""
    known = [row for row in rows if row["item_id"] == item and row["event_timestamp"] < edge]
    return known[-1]


def test_windows_end_just_before_the_edge(tmp_path: Path) -> None:
    events = [
        purchase(1, 10, day(0)),
        purchase(2, 10, day(30)),
        purchase(2, 10, day(35) - timedelta(seconds=1)),
        purchase(3, 10, day(35)),  # the edge's own second belongs to the next snapshot
    ]

    rows = activity(write_shop(tmp_path, events))

    row = as_of(rows, 10, day(35))
    assert row["event_timestamp"] == day(35) - timedelta(microseconds=1)
    assert row["buyers_total"] == 2
    assert (row["buyers_28d"], row["buyers_7d"], row["purchases_28d"]) == (1, 1, 2)
    assert row["first_buyers_28d"] == 1
    assert row["repeat_rate"] == pytest.approx(1 / 2)
    assert row["trend"] == pytest.approx(math.log((1 + 1) / (1 + 1)))
    assert row["first_sold_s"] == int(day(0).timestamp())
    assert as_of(rows, 10, day(42))["buyers_28d"] == 2


def test_the_usual_gap_is_the_geometric_mean_of_all_users_gaps(tmp_path: Path) -> None:
    events = [
        purchase(1, 10, day(0)),
        purchase(1, 10, day(4)),
        purchase(1, 10, day(4) + timedelta(hours=2)),  # the same errand
        purchase(2, 10, day(1)),
        purchase(2, 10, day(10)),
        purchase(2, 11, day(10)),
    ]

    rows = activity(write_shop(tmp_path, events))

    assert as_of(rows, 10, day(7))["gap_usual"] == pytest.approx(4)
    assert as_of(rows, 10, day(14))["gap_usual"] == pytest.approx(math.sqrt(4 * 9))
    assert as_of(rows, 11, day(14))["gap_usual"] is None


def test_prices_are_of_their_windows(tmp_path: Path) -> None:
    events = [
        purchase(1, 10, day(0), price=9.0, list_price=9.0),
        purchase(2, 10, day(60), price=1.0, list_price=2.0, quantity=3),
        purchase(3, 10, day(61), price=5.0, list_price=None),
    ]

    row = as_of(activity(write_shop(tmp_path, events)), 10, day(63))

    assert row["price_28d"] == pytest.approx((1.0 * 3 + 5.0) / (3 + 1))
    assert row["price_usual"] == pytest.approx(5.0)  # the median of 9, 1 and 5
    assert row["discount_28d"] == pytest.approx(1 - (1.0 * 3) / (2.0 * 3))


def test_an_item_not_sold_for_long_has_no_price(tmp_path: Path) -> None:
    events = [purchase(1, 10, day(0)), purchase(1, 11, day(110))]

    row = as_of(activity(write_shop(tmp_path, events)), 10, day(112))

    assert (row["buyers_total"], row["buyers_28d"]) == (1, 0)
    assert row["price_28d"] is None
    assert row["price_usual"] is None


def test_promotions_are_those_of_the_week_that_ends_at_the_edge(tmp_path: Path) -> None:
    events = [purchase(1, 10, day(0)), purchase(1, 11, day(0))]
    promotions = [
        context(10, "display", day(7), day(14), 0.25),
        context(10, "mailer", day(7), day(14), 0.5),
        context(10, "display", day(14), day(21), 1.0),
    ]

    rows = activity(write_shop(tmp_path, events, promotions))

    assert as_of(rows, 10, day(7))["display_share"] == 0
    assert as_of(rows, 10, day(14))["display_share"] == pytest.approx(0.25)
    assert as_of(rows, 10, day(14))["mailer_share"] == pytest.approx(0.5)
    assert as_of(rows, 10, day(21))["display_share"] == pytest.approx(1.0)
    assert as_of(rows, 10, day(28))["display_share"] == 0
    assert as_of(rows, 11, day(14))["display_share"] == 0


def test_coupons_count_while_their_campaign_is_known_and_runs(tmp_path: Path) -> None:
    events = [purchase(1, 10, day(0))]
    promotions = [
        context(10, "coupon", day(7), day(21)),
        context(10, "coupon", day(14) - timedelta(seconds=1), day(30)),
    ]

    rows = activity(write_shop(tmp_path, events, promotions))

    counts = [as_of(rows, 10, day(7 * week))["coupons_active"] for week in (1, 2, 3, 4, 5)]
    assert counts == [0, 2, 1, 1, 0]


def test_a_shop_without_promotions_has_them_missing(tmp_path: Path) -> None:
    row = activity(write_shop(tmp_path, [purchase(1, 10, day(0))]))[0]

    assert (row["display_share"], row["mailer_share"], row["coupons_active"]) == (None, None, None)


def test_a_row_is_written_only_where_a_value_changed(tmp_path: Path) -> None:
    rows = activity(write_shop(tmp_path, [purchase(1, 10, day(0))]))

    edges = [row["event_timestamp"] + timedelta(microseconds=1) for row in rows]
    # bought; out of 7 days; out of 28; out of 56 (trend is 0 again); out of 84
    assert edges == [day(7), day(14), day(35), day(63), day(91)]


def test_groups_of_items_do_not_change_the_result(tmp_path: Path) -> None:
    events = [purchase(u, i, day(u * i % 50)) for u in range(1, 9) for i in range(1, 9)]
    dataset = write_shop(tmp_path, events)

    assert activity(dataset, partition_events=5) == activity(dataset)
