from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.jobs.config import JobConfig, load_config
from feature_repo.jobs.ingest import ingest

NOW = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "invoice,customer,product,pieces,unit_price,when\n"
COLUMNS = [
    "data.columns.user_id=customer",
    "data.columns.item_id=product",
    "data.columns.event_timestamp=when",
    "data.columns.quantity=pieces",
    "data.columns.price=unit_price",
    "data.columns.session_id=invoice",
]


def orders(days: int = 60, users: Sequence[str] = ("7", "8", "9")) -> list[str]:
    """A line a user and day."""
    start = datetime(2020, 1, 1, 12, tzinfo=UTC)
    return [
        f"{1000 + day},{user},{day % 5},1,2.50,{start + timedelta(days=day):%Y-%m-%d %H:%M:%S}\n"
        for day in range(days)
        for user in users
    ]


def ingested(tmp_path: Path, lines: Sequence[str], *overrides: str) -> Dataset:
    events = tmp_path / "orders.csv"
    events.write_text(HEADER + "".join(lines), encoding="utf-8")
    config = load_config(
        JobConfig,
        [
            "data=parquet",
            "data.name=mine",
            f"data.root={tmp_path / 'data'}",
            f"data.events={events}",
            *COLUMNS,
            *overrides,
        ],
    )
    return ingest(config, NOW)


def table(dataset: Dataset, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(dataset.canonical / f"{name}.parquet").to_pylist()
    return rows


def test_a_shops_csv_becomes_canonical_tables(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, orders())

    first = table(dataset, "events")[0]
    assert first == {
        "user_id": 7,
        "item_id": 0,
        "event_type": "purchase",
        "event_timestamp": datetime(2020, 1, 1, 12, tzinfo=UTC),
        "quantity": 1,
        "price": 2.5,
        "list_price": None,
        "session_id": "1000",
    }
    assert dataset.clock is Clock.AS_OF
    assert dataset.counts["lines"] == dataset.counts["events"] == 60 * 3
    assert [row["user_id"] for row in table(dataset, "users")] == [7, 8, 9]
    assert table(dataset, "items")[0]["title"] is None
    assert dataset.columns["items"] == ["item_id", "event_timestamp"]
    assert dataset.start < first["event_timestamp"]


def test_string_ids_stay_strings(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, orders(users=("ann", "8", "007")))

    assert dataset.user_id is IdType.STRING
    assert dataset.item_id is IdType.INT64
    assert [row["user_id"] for row in table(dataset, "users")] == ["007", "8", "ann"]


def test_whole_numbers_written_as_fractions_are_integers(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, orders(users=("7.0", "8.0")))

    assert [row["user_id"] for row in table(dataset, "users")] == [7, 8]


def test_what_is_no_purchase_is_dropped_and_counted(tmp_path: Path) -> None:
    odd = [
        "C17,7,3,1,2.50,2020-01-05 10:00:00\n",
        "1,7,3,-2,2.50,2020-01-05 10:00:00\n",
        "1,7,3,0,2.50,2020-01-05 10:00:00\n",
        "1,,3,1,2.50,2020-01-05 10:00:00\n",
        "1,7,,1,2.50,2020-01-05 10:00:00\n",
        "1,7,3,1,-2.50,2020-01-05 10:00:00\n",
    ]

    dataset = ingested(tmp_path, [*orders(), *odd], "data.cancelled_column=invoice")

    dropped = {name: count for name, count in dataset.counts.items() if name.startswith("dropped")}
    assert dropped == {
        "dropped: cancelled": 1,
        "dropped: no item": 1,
        "dropped: no user": 1,
        "dropped: price below zero": 1,
        "dropped: quantity of zero or less": 2,
    }
    assert dataset.counts["events"] == 60 * 3


def test_equal_lines_are_summed(tmp_path: Path) -> None:
    same = ["1,5,3,1,4.00,2020-01-05 10:00:00.250\n", "1,5,3,3,2.00,2020-01-05 10:00:00.750\n"]

    dataset = ingested(tmp_path, [*orders(), *same])

    (row,) = [row for row in table(dataset, "events") if row["user_id"] == 5]
    assert row["quantity"] == 1 + 3
    assert row["price"] == pytest.approx((1 * 4.0 + 3 * 2.0) / (1 + 3))
    assert row["event_timestamp"] == datetime(2020, 1, 5, 10, tzinfo=UTC)


def test_the_places_of_impressions_are_kept_where_the_shop_logs_them(tmp_path: Path) -> None:
    header = HEADER.replace("when", "when,event_type,position")
    bought = [line.replace("\n", ",purchase,\n") for line in orders()]
    shown = [f"1,7,3,1,2.50,2020-01-01 12:00:00,impression,{place}\n" for place in (4, 2)]
    events = tmp_path / "logged.csv"
    events.write_text(header + "".join([*bought, *shown]), encoding="utf-8")

    dataset = ingested(tmp_path, orders(), f"data.events={events}")

    found = {row["event_type"]: row["position"] for row in table(dataset, "events")}
    assert found == {"impression": 2, "purchase": None}


def test_users_and_items_have_the_attributes_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "product,label,cost,available\n0,Milk,1.5,true\n77,Tea,,false\n", encoding="utf-8"
    )
    pq.write_table(
        pa.table({"user_id": [7, 99], "country": ["France", None]}), tmp_path / "users.parquet"
    )

    dataset = ingested(
        tmp_path,
        orders(),
        f"data.items={tmp_path / 'items.csv'}",
        f"data.users={tmp_path / 'users.parquet'}",
        "data.columns.title=label",
        "data.columns.item_price=cost",
        "data.columns.region=country",
    )

    items = {row["item_id"]: row for row in table(dataset, "items")}
    assert (items[0]["title"], items[0]["price"], items[0]["available"]) == ("Milk", 1.5, True)
    assert (items[77]["price"], items[77]["available"]) == (None, False)
    assert items[1]["title"] is None  # sold, but not in the file
    users = {row["user_id"]: row["region"] for row in table(dataset, "users")}
    assert users == {7: "France", 8: None, 9: None, 99: None}


def test_without_files_attributes_come_from_the_first_event_that_has_them(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, orders(), "data.columns.title=invoice")

    titles = {row["item_id"]: row["title"] for row in table(dataset, "items")}
    assert titles[0] == "1000"


def test_times_without_a_zone_are_of_the_shops_zone(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, orders(), "data.timezone=Asia/Tokyo")

    first = table(dataset, "events")[0]["event_timestamp"]
    assert first == datetime(2020, 1, 1, 3, tzinfo=UTC)
    assert dataset.edges[2].hour == 15  # midnight in Tokyo


def test_times_may_have_a_format(tmp_path: Path) -> None:
    lines = [f"{day},7,1,1,1,{1 + day // 28}/{1 + day % 28}/2020 08:30\n" for day in range(28 * 3)]

    dataset = ingested(tmp_path, lines, "data.time_format='%m/%d/%Y %H:%M'")

    assert table(dataset, "events")[0]["event_timestamp"] == datetime(2020, 1, 1, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize("unit", [1, 1000])
def test_times_may_be_epoch_seconds_or_milliseconds(tmp_path: Path, unit: int) -> None:
    seconds = [1_577_880_000 + 86_400 * day for day in range(60)]
    events = {"user_id": [7] * 60, "item_id": [1] * 60, "at": [s * unit for s in seconds]}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    config = load_config(
        JobConfig,
        [
            "data=parquet",
            f"data.root={tmp_path / 'data'}",
            f"data.events={tmp_path / 'events.parquet'}",
            "data.columns.event_timestamp=at",
        ],
    )

    first = table(ingest(config, NOW), "events")[0]

    assert first["event_timestamp"] == datetime(2020, 1, 1, 12, tzinfo=UTC)


def test_a_sample_keeps_whole_users_evenly_spread(tmp_path: Path) -> None:
    users = [str(user) for user in range(100, 110)]

    dataset = ingested(tmp_path, orders(users=users), "data.max_users=3")

    kept = [row["user_id"] for row in table(dataset, "users")]
    assert kept == [103, 106, 109]
    assert dataset.counts["events"] == 60 * 3


def test_new_data_have_the_wall_clock(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text(HEADER + "".join(orders()), encoding="utf-8")
    overrides = ["data=parquet", f"data.events={events}", f"data.root={tmp_path / 'data'}"]
    config = load_config(JobConfig, [*overrides, *COLUMNS])

    assert ingest(config, datetime(2020, 3, 2, tzinfo=UTC)).clock is Clock.WALL


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ingested(tmp_path, orders())
    written = (tmp_path / "data" / "canonical" / "events.parquet").stat().st_mtime_ns

    ingested(tmp_path, orders())
    assert "inputs unchanged, reused" in caplog.text
    assert (tmp_path / "data" / "canonical" / "events.parquet").stat().st_mtime_ns == written

    changed = ingested(tmp_path, orders(days=61))
    assert changed.counts["events"] == 61 * 3


BAD: Mapping[str, tuple[list[str], list[str], str]] = {
    "a missing column": (
        orders(),
        ["data.columns.user_id=buyer"],
        r"orders\.csv has no column 'buyer' \(data\.columns\.user_id=buyer\); it has invoice, cust",
    ),
    "an unparsable time": (
        [*orders(), "1,7,3,1,1,32.13.2020\n"],
        [],
        r"orders\.csv, column 'when', row 181: got '32\.13\.2020', expected an ISO 8601 time",
    ),
    "an empty time": (
        ["1,7,3,1,1,\n", *orders()],
        [],
        r"orders\.csv, column 'when', row 1 is empty",
    ),
    "an unparsable quantity": (
        [*orders(days=20), "1,7,3,two,1,2020-01-05 10:00:00\n"],
        [],
        r"column 'pieces', row 61: got 'two'",
    ),
    "an unknown event type": (
        orders(),
        ["data.columns.event_type=invoice"],
        r"column 'invoice', row 1: got '1000', expected one of impression, view",
    ),
    "no purchase at all": (
        ["1,7,3,-1,1,2020-01-05 10:00:00\n"],
        [],
        r"orders\.csv has no purchase left .*'dropped: quantity of zero or less': 1",
    ),
    "an empty window": (
        [*orders(days=40), "1,7,3,1,1,2020-06-01 10:00:00\n"],
        [],
        r"orders\.csv: the window \[t0, t1\) from 2020-04-24.* holds no purchase",
    ),
    "a cut-off after the data": (
        orders(),
        ["data.cutoff=2021-01-01"],
        "leaves an empty window",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_named_by_file_column_and_row(tmp_path: Path, case: str) -> None:
    lines, overrides, sentence = BAD[case]

    with pytest.raises(BadInput, match=sentence):
        ingested(tmp_path, lines, *overrides)

    assert not (tmp_path / "data" / "dataset.json").exists()


def test_an_item_listed_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "product,title\n0,Milk\n1,Tea\n0,Milk again\n", encoding="utf-8"
    )

    with pytest.raises(BadInput, match=r"items\.csv, column 'product', row 3: the id 0 was there"):
        ingested(tmp_path, orders(), f"data.items={tmp_path / 'items.csv'}")


def test_an_item_may_have_one_row_for_each_validity_time(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "product,title,since\n0,Milk,2019-01-01\n0,Fresh milk,2020-02-01\n", encoding="utf-8"
    )

    dataset = ingested(
        tmp_path,
        orders(),
        f"data.items={tmp_path / 'items.csv'}",
        "data.columns.item_timestamp=since",
    )

    titles = [row["title"] for row in table(dataset, "items") if row["item_id"] == 0]
    assert titles == ["Milk", "Fresh milk"]


def test_events_are_needed() -> None:
    config = load_config(JobConfig, ["data=parquet"])

    with pytest.raises(ConfigError, match=r"data\.events is not set"):
        ingest(config, NOW)


@pytest.mark.parametrize("name", ["none.csv", "orders.xlsx"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "orders.xlsx").write_bytes(b"PK")
    config = load_config(JobConfig, ["data=parquet", f"data.events={tmp_path / name}"])

    with pytest.raises(BadInput, match=r"no such file|expected one of \.parquet"):
        ingest(config, NOW)
