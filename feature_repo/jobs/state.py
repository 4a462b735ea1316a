"""Job ``state``: every user's history and activity at every snapshot, computed by DuckDB.

The same state as ``feature_repo.contract.state.fold`` makes, one range of users at a time. A
user has a snapshot at the edges that follow a week with a purchase; its ``event_timestamp`` is
the time of the last purchase that it contains.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract import state as folded_state
from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.jobs import item_activity, windows
from feature_repo.jobs.canonical import PURCHASE
from feature_repo.jobs.config import DataConfig, JobConfig
from feature_repo.jobs.database import (
    connect,
    open_writer,
    parquet,
    rows,
    table,
    text,
    write_parquet,
)
from feature_repo.jobs.stage import Stage

log = logging.getLogger(__name__)

PARTITION_EVENTS = 250_000
"""Events of one range of users: what bounds the memory."""

TABLES = ("events", "users", "items", "item_context")
VIEWS = ("user_profile", "user_history", "user_activity", "item_attributes", "item_activity")

MAX_HALF_LIVES = 900

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class UserRange:
    """Users with ``start <= user_id < stop`` in the order of ids; None is open."""

    start: Any
    stop: Any

    @property
    def condition(self) -> str:
        """The range as an SQL condition."""
        parts = []
        if self.start is not None:
            parts.append(f"user_id >= {_literal(self.start)}")
        if self.stop is not None:
            parts.append(f"user_id < {_literal(self.stop)}")
        return " AND ".join(parts) or "true"


def _literal(user_id: Any) -> str:
    return text(user_id) if isinstance(user_id, str) else str(user_id)


def make_state(config: JobConfig) -> Dataset:
    """Write the five Feast sources of an ingested data set, or find them unchanged.

    Raises:
        ArtifactError: the data set was not ingested.
    """
    dataset = config.data.dataset()
    stage = stage_of(config.data, dataset)
    if not config.force and stage.is_current():
        return dataset
    edges = edges_of(dataset, config.data)
    with connect(config, dataset.root) as connection:
        for source, target in (("users", "user_profile"), ("items", "item_attributes")):
            query = f"FROM {parquet(dataset.canonical / f'{source}.parquet')}"
            write_parquet(connection, query, dataset.features / f"{target}.parquet")
        write_user_state(connection, dataset, edges)
        item_activity.write_item_activity(connection, dataset)
    stage.done()
    return dataset


def edges_of(dataset: Dataset, config: DataConfig) -> list[datetime]:
    """Every snapshot's time, rising."""
    last = dataset.end - timedelta(seconds=1)
    return windows.snapshot_edges(
        dataset.start, last, dataset.edges, config.snapshot_days, config.zone
    )


def stage_of(config: DataConfig, dataset: Dataset) -> Stage:
    """The inputs and outputs of this job."""
    inputs = [dataset.canonical / f"{table}.parquet" for table in TABLES]
    outputs = [dataset.features / f"{view}.parquet" for view in VIEWS]
    settings = {
        "edges": [str(edge) for edge in edges_of(dataset, config)],
        "history_items": dataset.history_items,
        "half_life_days": dataset.half_life_days,
    }
    code = [folded_state, item_activity, sys.modules[__name__]]
    return Stage("state", dataset.root, inputs, settings, outputs, code)


def write_user_state(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    edges: Sequence[datetime],
    partition_events: int = PARTITION_EVENTS,
) -> None:
    """Write ``user_history.parquet`` and ``user_activity.parquet``, sorted by user and time."""
    events = parquet(dataset.canonical / "events.parquet")
    _create_edges(connection, edges)
    ranges = user_ranges(connection, events, partition_events)
    history = history_schema(dataset.user_id, dataset.item_id)
    activity = activity_schema(dataset.user_id)
    with ExitStack() as stack:
        write_history = open_writer(stack, dataset.features / "user_history.parquet", history)
        write_activity = open_writer(stack, dataset.features / "user_activity.parquet", activity)
        for users in _progress(ranges):
            _stage_purchases(connection, events, users)
            write_history.write_table(histories(connection, dataset, history))
            write_activity.write_table(activities(connection, dataset, activity))


def _create_edges(connection: duckdb.DuckDBPyConnection, edges: Sequence[datetime]) -> None:
    listed = ", ".join(f"({text(edge)}::TIMESTAMPTZ)" for edge in edges)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE edges AS FROM (VALUES {listed}) t(edge)")


def _progress(ranges: Sequence[UserRange]) -> Iterator[UserRange]:
    for index, users in enumerate(tqdm(ranges, "user state", unit="part", disable=None)):
        yield users
        if (index + 1) % 10 == 0 or index + 1 == len(ranges):
            log.info("User state: %d of %d ranges of users.", index + 1, len(ranges))


def user_ranges(
    connection: duckdb.DuckDBPyConnection, events: str, partition_events: int
) -> list[UserRange]:
    """Ranges of users of about ``partition_events`` events, from the sorted events file."""
    numbered = events.replace(")", ", file_row_number = true)")
    query = (
        f"SELECT DISTINCT user_id FROM {numbered} WHERE file_row_number > 0 "
        f"AND file_row_number % {partition_events} = 0 ORDER BY user_id"
    )
    bounds = [line[0] for line in rows(connection, query)]
    return [
        UserRange(start, stop) for start, stop in zip([None, *bounds], [*bounds, None], strict=True)
    ]


def _stage_purchases(connection: duckdb.DuckDBPyConnection, events: str, users: UserRange) -> None:
    """One row a purchased item and time, with its place in the user's sequence.

    ``place`` orders a user's purchases from the state's last entry to its first: by time, and
    within one time by falling id. ``snapshot`` numbers the user's snapshots from 1.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE purchases AS
        SELECT user_id, item_id, epoch(event_timestamp)::BIGINT AS time_s,
               quantity, price, list_price,
               row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp, item_id DESC)
                   AS place,
               dense_rank() OVER (PARTITION BY user_id ORDER BY edge) AS snapshot
        FROM (SELECT * FROM {events}
              WHERE event_type = {text(PURCHASE)} AND {users.condition}) AS part
        ASOF JOIN edges ON part.event_timestamp < edges.edge
        """
    )


def history_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The columns of ``user_history.parquet``."""
    return pa.schema(
        {
            "user_id": arrow_type(user_id),
            "event_timestamp": TIMESTAMP,
            "history_item_id": pa.list_(arrow_type(item_id)),
            "history_count": pa.list_(pa.int64()),
            "history_weight": pa.list_(pa.float32()),
            "history_first_s": pa.list_(pa.int64()),
            "history_last_s": pa.list_(pa.int64()),
            "history_gap_sq": pa.list_(pa.float32()),
        }
    )


def arrow_type(id_type: IdType) -> pa.DataType:
    """Arrow's type for ids."""
    return pa.int64() if id_type is IdType.INT64 else pa.string()


def histories(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, schema: pa.Schema
) -> pa.Table:
    """The histories of the staged purchases' users, one row a user and snapshot."""
    _stage_item_states(connection, dataset)
    flat = table(
        connection,
        f"""
        WITH ends AS (SELECT user_id, max(snapshot) + 1 AS stop FROM purchases GROUP BY 1),
        live AS (
            SELECT s.*, unnest(range(s.snapshot, coalesce(s.next_snapshot, stop))) AS seen_at
            FROM item_states s JOIN ends USING (user_id)
            WHERE s.next_snapshot IS NULL OR s.next_snapshot > s.snapshot)
        SELECT * EXCLUDE (place, snapshot, next_snapshot),
               row_number() OVER (PARTITION BY user_id, seen_at ORDER BY place DESC) AS rank
        FROM live QUALIFY rank <= {dataset.history_items}
        ORDER BY user_id, seen_at, rank
        """,
    )
    return _as_lists(flat.combine_chunks(), schema)


def _stage_item_states(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    """What each user did with each item as of each purchase of it.

    An item is evicted once ``history_items`` other items rank above it. The items that rank
    above it, just before it is bought again, are those with a place after its last one and a
    time before the new one: their distinct count says whether it comes back as a new item.
    Weights are sums of 2^(time / half-life), scaled to their last time.
    """
    day_s = folded_state.DAY_S
    growth = _growth(dataset)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE item_states AS
        WITH neighbours AS (
            SELECT user_id, item_id, time_s, place, snapshot,
                   min(place) OVER (PARTITION BY user_id, time_s) AS step_start,
                   lag(time_s) OVER same AS previous_s, lag(place) OVER same AS previous_place,
                   lead(snapshot) OVER same AS next_snapshot
            FROM purchases WINDOW same AS (PARTITION BY user_id, item_id ORDER BY time_s)),
        above AS (
            SELECT *, count(DISTINCT item_id) OVER (
                PARTITION BY user_id ORDER BY place
                ROWS BETWEEN coalesce(place - previous_place - 1, 0) PRECEDING
                         AND place - step_start + 1 PRECEDING) AS num_above
            FROM neighbours),
        lives AS (
            SELECT *, previous_s IS NULL OR num_above >= {dataset.history_items} AS anew,
                   sum((previous_s IS NULL OR num_above >= {dataset.history_items})::INTEGER)
                       OVER (PARTITION BY user_id, item_id ORDER BY time_s) AS life
            FROM above)
        SELECT user_id, item_id, place, snapshot, next_snapshot, time_s AS last_s,
               min(time_s) OVER life AS first_s, count(*) OVER life AS count,
               (sum({growth}) OVER life / {growth})::FLOAT AS weight,
               sum(CASE WHEN anew THEN 0.0 ELSE pow((time_s - previous_s) / {day_s}, 2) END)
                   OVER life::FLOAT AS gap_sq
        FROM lives WINDOW life AS (PARTITION BY user_id, item_id, life ORDER BY time_s)
        """
    )


def _growth(dataset: Dataset) -> str:
    """2^((time - start) / half-life) as an SQL expression.

    Raises:
        ConfigError: the data span so many half-lives that it leaves the range of doubles.
    """
    half_lives = (dataset.end - dataset.start) / timedelta(days=dataset.half_life_days)
    if half_lives > MAX_HALF_LIVES:
        raise ConfigError(
            f"The data of {dataset.name} span {half_lives:.0f} half-lives; at most "
            f"{MAX_HALF_LIVES} can be computed. Set a longer data.half_life_days."
        )
    start_s = int(dataset.start.timestamp())
    return f"pow(2.0, (time_s - {start_s}) / {dataset.half_life_days * folded_state.DAY_S})"


def _as_lists(flat: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows sorted by user, snapshot and rank -> one row of lists a user and snapshot."""
    starts = _starts(flat)
    offsets = pa.array([*starts, len(flat)], pa.int32())
    first = flat.take(pa.array(starts, pa.int64()))
    columns = [first.column("user_id"), _from_epoch_s(first.column("last_s"))]
    for column in schema.names[2:]:
        values = flat.column(column.removeprefix("history_"))
        value_type = schema.field(column).type.value_type
        array = values.combine_chunks().cast(value_type)
        columns.append(pa.ListArray.from_arrays(offsets, array))
    return pa.table(columns, schema=schema)


def activity_schema(user_id: IdType) -> pa.Schema:
    """The columns of ``user_activity.parquet``."""
    return pa.schema(
        {
            "user_id": arrow_type(user_id),
            "event_timestamp": TIMESTAMP,
            "events_total": pa.int64(),
            "sessions_total": pa.int64(),
            "events_decayed": pa.float32(),
            "sessions_decayed": pa.float32(),
            "spend_decayed": pa.float32(),
            "discount_rate": pa.float32(),
            "first_event_s": pa.int64(),
            "last_event_s": pa.int64(),
        }
    )


def activities(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, schema: pa.Schema
) -> pa.Table:
    """The activity of the staged purchases' users, one row a user and snapshot.

    Decayed sums are as of the snapshot's last purchase. ``discount_rate`` is the share of the
    list prices that the user did not pay, over all purchases with a list price.
    """
    growth = _growth(dataset)
    query = f"""
        WITH sessions AS (
            SELECT user_id, time_s, snapshot, count(*) AS events,
                   coalesce(fsum(price * quantity), 0.0) AS spend,
                   coalesce(fsum(price * quantity) FILTER (WHERE list_price IS NOT NULL), 0.0)
                       AS paid,
                   coalesce(fsum(list_price * quantity) FILTER (WHERE price IS NOT NULL), 0.0)
                       AS listed
            FROM purchases GROUP BY ALL)
        SELECT user_id, snapshot, sum(events) OVER past AS events_total,
               count(*) OVER past AS sessions_total,
               sum(events * {growth}) OVER past / {growth} AS events_decayed,
               sum({growth}) OVER past / {growth} AS sessions_decayed,
               sum(spend * {growth}) OVER past / {growth} AS spend_decayed,
               CASE WHEN sum(listed) OVER past > 0
                   THEN 1 - sum(paid) OVER past / sum(listed) OVER past END AS discount_rate,
               min(time_s) OVER past AS first_event_s, time_s AS last_event_s
        FROM sessions WINDOW past AS (PARTITION BY user_id ORDER BY time_s)
        QUALIFY row_number() OVER (PARTITION BY user_id, snapshot ORDER BY time_s DESC) = 1
        ORDER BY user_id, snapshot
    """
    flat = table(connection, query).drop_columns(["snapshot"])
    stamps = _from_epoch_s(flat.column("last_event_s"))
    return flat.add_column(1, "event_timestamp", stamps).cast(schema)


def _starts(flat: pa.Table) -> npt.NDArray[np.int64]:
    """Rows at which a new list begins."""
    return np.flatnonzero(np.asarray(flat.column("rank")) == 1)


def _from_epoch_s(seconds: pa.ChunkedArray) -> pa.ChunkedArray:
    return seconds.cast(pa.timestamp("s", tz="UTC")).cast(TIMESTAMP)
