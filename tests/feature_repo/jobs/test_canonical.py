from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.jobs.canonical import EVENTS, ITEMS, USERS, Staged, finish
from feature_repo.jobs.config import JobConfig, load_config
from feature_repo.jobs.user_history import TIMESTAMP
from tests.feature_repo.jobs.shops import database

STAGED = Staged(IdType.INT64, IdType.STRING, {"lines": 100}, "orders.csv")


def stage(connection: duckdb.DuckDBPyConnection, num_users: int) -> None:
    """A purchase a user and day for 60 days."""
    connection.execute(
        f"""
        CREATE TABLE raw_events AS
        SELECT u AS user_id, 'i' || (d % 5) AS item_id, 'purchase' AS event_type,
               TIMESTAMPTZ '2020-01-01 12:00:00+00' + to_days(d::INTEGER) AS event_timestamp,
               1 AS quantity, 2.0 AS price, NULL AS list_price, NULL AS session_id
        FROM range({num_users}) users(u), range(60) days(d)
        """
    )
    for table, key, columns in (("raw_users", "user_id", USERS), ("raw_items", "item_id", ITEMS)):
        nulls = ", ".join(f"NULL AS {column}" for column in columns)
        connection.execute(
            f"CREATE TABLE {table} AS SELECT {key}, {nulls} "
            f"FROM (SELECT DISTINCT {key} FROM raw_events)"
        )
    connection.execute(
        "CREATE TABLE raw_context (item_id VARCHAR, event_timestamp TIMESTAMPTZ, "
        "valid_until TIMESTAMPTZ, kind VARCHAR, share FLOAT)"
    )


def finished(root: Path, num_users: int, *overrides: str) -> Dataset:
    settings = ["data=parquet", f"data.root={root}", *overrides]
    with database() as connection:
        stage(connection, num_users)
        config = load_config(JobConfig, settings).data
        return finish(connection, config, STAGED, datetime(2024, 1, 1, tzinfo=UTC))


def test_tables_have_the_canonical_columns_and_types(tmp_path: Path) -> None:
    finished(tmp_path, 3)

    schema = pq.read_schema(tmp_path / "canonical" / "events.parquet")
    assert schema.names == ["user_id", "item_id", *EVENTS]
    assert schema.field("event_timestamp").type == TIMESTAMP
    assert str(schema.field("user_id").type) == "int64"
    assert str(schema.field("item_id").type) == "string"
    assert str(schema.field("quantity").type) == "int64"
    items = pq.read_schema(tmp_path / "canonical" / "items.parquet")
    assert items.names == ["item_id", *ITEMS]
    assert str(items.field("price").type) == "float"


def test_what_is_not_dated_holds_since_the_start(tmp_path: Path) -> None:
    dataset = finished(tmp_path, 3)

    times = pq.read_table(tmp_path / "canonical" / "users.parquet")["event_timestamp"]
    assert set(times.to_pylist()) == {dataset.start}


def test_the_description_counts_rows_and_reloads(tmp_path: Path) -> None:
    dataset = finished(tmp_path, 3)

    assert dataset.counts == {
        "lines": 100,
        "events": 3 * 60,
        "users": 3,
        "items": 5,
        "item_context": 0,
    }
    assert Dataset.load(tmp_path / "dataset.json") == dataset
    assert dataset.end == datetime(2020, 2, 29, 12, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(("max_users", "kept"), [(1, 1), (4, 4), (10, 10), (99, 10)])
def test_a_sample_has_as_many_users_as_were_asked_for(
    tmp_path: Path, max_users: int, kept: int
) -> None:
    assert finished(tmp_path, 10, f"data.max_users={max_users}").counts["users"] == kept


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        finished(tmp_path / name, 7)

    for table in ("events", "users", "items"):
        first, second = (
            (tmp_path / name / "canonical" / f"{table}.parquet").read_bytes()
            for name in ("one", "two")
        )
        assert first == second
