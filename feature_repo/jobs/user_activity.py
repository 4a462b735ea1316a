"""Each user's activity at each snapshot: totals, and sums decayed to the last purchase."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs.database import table
from feature_repo.jobs.user_history import TIMESTAMP, growth, row_times


def activity_schema(user_id: IdType) -> pa.Schema:
    """The columns of ``user_activity.parquet``."""
    return pa.schema(
        {
            "user_id": id_arrow_type(user_id),
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
    grown = growth(dataset)
    query = f"""
        WITH sessions AS (
            SELECT user_id, time_s, snapshot, revision, count(*) AS events,
                   coalesce(fsum(price * quantity), 0.0) AS spend,
                   coalesce(fsum(price * quantity) FILTER (WHERE list_price IS NOT NULL), 0.0)
                       AS paid,
                   coalesce(fsum(list_price * quantity) FILTER (WHERE price IS NOT NULL), 0.0)
                       AS listed
            FROM purchases GROUP BY ALL)
        SELECT user_id, snapshot, sum(events) OVER past AS events_total,
               count(*) OVER past AS sessions_total,
               sum(events * {grown}) OVER past / {grown} AS events_decayed,
               sum({grown}) OVER past / {grown} AS sessions_decayed,
               sum(spend * {grown}) OVER past / {grown} AS spend_decayed,
               CASE WHEN sum(listed) OVER past > 0
                   THEN 1 - sum(paid) OVER past / sum(listed) OVER past END AS discount_rate,
               min(time_s) OVER past AS first_event_s, time_s AS last_event_s, revision
        FROM sessions WINDOW past AS (PARTITION BY user_id ORDER BY time_s)
        QUALIFY row_number() OVER (PARTITION BY user_id, snapshot ORDER BY time_s DESC) = 1
        ORDER BY user_id, snapshot
    """
    flat = table(connection, query)
    stamps = row_times(flat.column("last_event_s"), flat.column("revision"))
    flat = flat.drop_columns(["snapshot", "revision"])
    return flat.add_column(1, "event_timestamp", stamps).cast(schema)
