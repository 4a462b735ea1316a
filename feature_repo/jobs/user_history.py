"""Each user's history at each snapshot: the contract's fold over purchases, in SQL."""

from __future__ import annotations

from datetime import timedelta

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.marks import SECOND_US
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs.database import table

MAX_HALF_LIVES = 900
"""Half-lives that the data may span: 2^900 is a double, 2^1024 is not."""

TIMESTAMP = pa.timestamp("us", tz="UTC")


def history_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The columns of ``user_history.parquet``."""
    return pa.schema(
        {
            "user_id": id_arrow_type(user_id),
            "event_timestamp": TIMESTAMP,
            "history_item_id": pa.list_(id_arrow_type(item_id)),
            "history_count": pa.list_(pa.int64()),
            "history_weight": pa.list_(pa.float32()),
            "history_first_s": pa.list_(pa.int64()),
            "history_last_s": pa.list_(pa.int64()),
            "history_gap_sq": pa.list_(pa.float32()),
            "history_gap_last": pa.list_(pa.float32()),
        }
    )


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
    grown = growth(dataset)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE item_states AS
        WITH neighbours AS (
            SELECT user_id, item_id, time_s, place, snapshot, revision,
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
        SELECT user_id, item_id, place, snapshot, next_snapshot, revision, time_s AS last_s,
               min(time_s) OVER life AS first_s, count(*) OVER life AS count,
               (sum({grown}) OVER life / {grown})::FLOAT AS weight,
               sum(CASE WHEN anew THEN 0.0 ELSE pow((time_s - previous_s) / {DAY_S}, 2) END)
                   OVER life::FLOAT AS gap_sq,
               (CASE WHEN anew THEN 0.0 ELSE (time_s - previous_s) / {DAY_S} END)::FLOAT AS gap_last
        FROM lives WINDOW life AS (PARTITION BY user_id, item_id, life ORDER BY time_s)
        """
    )


def growth(dataset: Dataset) -> str:
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
    return f"pow(2.0, (time_s - {start_s}) / {dataset.half_life_days * DAY_S})"


def _as_lists(flat: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows sorted by user, snapshot and rank -> one row of lists a user and snapshot."""
    starts = _starts(flat)
    offsets = pa.array([*starts, len(flat)], pa.int32())
    first = flat.take(pa.array(starts, pa.int64()))
    # The first entry of a list was bought at its snapshot, and has that one's revision.
    columns = [
        first.column("user_id"),
        row_times(first.column("last_s"), first.column("revision")),
    ]
    for column in schema.names[2:]:
        values = flat.column(column.removeprefix("history_"))
        value_type = schema.field(column).type.value_type
        array = values.combine_chunks().cast(value_type)
        columns.append(pa.ListArray.from_arrays(offsets, array))
    return pa.table(columns, schema=schema)


def _starts(flat: pa.Table) -> npt.NDArray[np.int64]:
    """Rows at which a new list begins."""
    return np.flatnonzero(np.asarray(flat.column("rank")) == 1)


def row_times(last_s: pa.ChunkedArray, revision: pa.ChunkedArray) -> pa.ChunkedArray:
    """Rows' times: epoch seconds of their last events, and their revisions in microseconds."""
    seconds = pc.multiply(last_s.cast(pa.int64()), pa.scalar(SECOND_US, pa.int64()))
    return pc.add(seconds, revision.cast(pa.int64())).cast(TIMESTAMP)
