"""Everything that each user bought, for lists of items that are new to the user.

The history keeps the last ``history_items`` distinct items; leaving out what was seen needs more
of them, and of each only its id. A row exists for the edges of the data set's windows and its end.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.journal import SEEN_ITEMS
from feature_repo.contract.marks import SECOND_US
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs.database import table, text
from feature_repo.jobs.user_history import TIMESTAMP


def seen_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The columns of ``user_seen.parquet``; most recently bought items first."""
    return pa.schema(
        {
            "user_id": id_arrow_type(user_id),
            "event_timestamp": TIMESTAMP,
            "seen_item_id": pa.list_(id_arrow_type(item_id)),
        }
    )


def seen_items(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, schema: pa.Schema
) -> pa.Table:
    """The seen items of the staged ``purchases``' users, one row a user and edge.

    ``event_timestamp`` is the user's last purchase before the edge; a user without one between
    two edges has one row for both.
    """
    times = (*dataset.earlier, *dataset.edges, dataset.end)
    edges = ", ".join(f"({text(time)}::TIMESTAMPTZ)" for time in times)
    query = f"""
        WITH stops AS (SELECT epoch(edge) AS stop_s FROM (VALUES {edges}) t(edge)),
        last AS (
            SELECT user_id, stop_s, item_id, max(time_s) AS last_s, max(revision) AS revision
            FROM purchases JOIN stops ON time_s < stop_s GROUP BY ALL),
        seen AS (
            SELECT user_id, stop_s, max(last_s) AS seen_s, max(revision) AS revision,
                   list(item_id ORDER BY last_s DESC, item_id)[:{SEEN_ITEMS}] AS seen_item_id
            FROM last GROUP BY ALL)
        SELECT user_id, make_timestamptz(seen_s * {SECOND_US} + revision) AS event_timestamp,
               any_value(seen_item_id) AS seen_item_id
        FROM seen GROUP BY ALL ORDER BY user_id, event_timestamp
    """
    return table(connection, query).cast(schema)
