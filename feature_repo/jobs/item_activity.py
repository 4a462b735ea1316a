"""What shoppers did with each item before each snapshot, and the promotions known by then."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import duckdb
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.canonical import PURCHASE
from feature_repo.jobs.database import open_writer, parquet, row, table, text

log = logging.getLogger(__name__)

PARTITION_EVENTS = 500_000
"""Events of one group of items: what bounds the memory."""

WINDOW_DAYS = (7, 28, 56, 84)

COLUMNS = {
    "buyers_total": "BIGINT",
    "buyers_28d": "BIGINT",
    "buyers_7d": "BIGINT",
    "purchases_28d": "BIGINT",
    "first_buyers_28d": "BIGINT",
    "repeat_rate": "FLOAT",
    "gap_usual": "FLOAT",
    "trend": "FLOAT",
    "price_28d": "FLOAT",
    "price_usual": "FLOAT",
    "discount_28d": "FLOAT",
    "display_share": "FLOAT",
    "mailer_share": "FLOAT",
    "coupons_active": "BIGINT",
    "first_sold_s": "BIGINT",
}
"""Columns of ``item_activity`` after item_id and event_timestamp."""


def write_item_activity(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    partition_events: int = PARTITION_EVENTS,
) -> None:
    """Write ``item_activity.parquet``: a row an item and edge at which a value changed.

    Reads the staged table ``edges``. ``event_timestamp`` is one microsecond before the edge.
    """
    total = row(connection, f"SELECT count(*) FROM {_events(dataset)}")[0]
    parts = max(1, -(-total // partition_events))
    with ExitStack() as stack:
        writer = None
        for found in _parts(connection, dataset, parts):
            if writer is None:
                target = dataset.features / "item_activity.parquet"
                writer = open_writer(stack, target, found.schema)
            writer.write_table(found)
    log.info("Item activity: %d of %d groups of items.", parts, parts)


def _parts(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, parts: int
) -> Iterator[pa.Table]:
    context = parquet(dataset.canonical / "item_context.parquet")
    has_promotions = row(connection, f"SELECT count(*) > 0 FROM {context}")[0]
    for part in tqdm(range(parts), "item activity", unit="part", disable=None):
        condition = f"hash(item_id) % {parts} = {part}"
        _stage_items(connection, _events(dataset), context, condition)
        yield table(connection, _query(has_promotions))


def _events(dataset: Dataset) -> str:
    return parquet(dataset.canonical / "events.parquet")


def _stage_items(
    connection: duckdb.DuckDBPyConnection, events: str, context: str, condition: str
) -> None:
    """Purchases of a group of items, each with its number and successor for that buyer."""
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE item_purchases AS
        SELECT item_id, user_id, event_timestamp AS bought_at, quantity, price, list_price,
               row_number() OVER same AS nth, lead(event_timestamp) OVER same AS next_at,
               epoch(event_timestamp - lag(event_timestamp) OVER same) / 86400 AS gap_days
        FROM {events} WHERE event_type = {text(PURCHASE)} AND {condition}
        WINDOW same AS (PARTITION BY item_id, user_id ORDER BY event_timestamp)
        """
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE item_context AS SELECT * FROM {context} WHERE {condition}"
    )


def _query(has_promotions: bool) -> str:
    columns = ", ".join(f"{column}::{kind} AS {column}" for column, kind in COLUMNS.items())
    values = ", ".join(COLUMNS)
    return f"""
        WITH grid AS ({_GRID}), recent AS ({_RECENT}), promoted AS ({_PROMOTED}),
        snapshots AS (
            SELECT item_id, just_before AS event_timestamp, {columns}
            FROM (
                SELECT grid.*, repeaters / buyers_total AS repeat_rate,
                       exp(log_gaps / nullif(gaps, 0)) AS gap_usual,
                       {_or_zero("buyers_28d")}, {_or_zero("buyers_7d")},
                       {_or_zero("purchases_28d")}, {_or_zero("first_buyers_28d")},
                       ln((1 + coalesce(recent.buyers_28d, 0)) / (1 + coalesce(buyers_before, 0)))
                           AS trend,
                       price_28d, price_usual, discount_28d,
                       {_promotion("display_share", has_promotions)},
                       {_promotion("mailer_share", has_promotions)},
                       {_promotion("coupons_active", has_promotions)}
                FROM grid LEFT JOIN recent USING (item_id, edge)
                LEFT JOIN promoted USING (item_id, edge)))
        SELECT * FROM snapshots
        QUALIFY row({values}) IS DISTINCT FROM
            lag(row({values})) OVER (PARTITION BY item_id ORDER BY event_timestamp)
        ORDER BY item_id, event_timestamp
    """


def _or_zero(column: str) -> str:
    return f"coalesce(recent.{column}, 0) AS {column}"


def _promotion(column: str, has_promotions: bool) -> str:
    """Zero where the shop has promotions, but not of this item; missing where it has none."""
    return f"coalesce({column}, 0) AS {column}" if has_promotions else f"NULL AS {column}"


_GRID = """
    SELECT first_sales.item_id, edges.edge, just_before, first_sold_s,
           sum(coalesce(first_purchases, 0)) OVER past AS buyers_total,
           sum(coalesce(second_purchases, 0)) OVER past AS repeaters,
           fsum(coalesce(new_log_gaps, 0)) OVER past AS log_gaps,
           sum(coalesce(new_gaps, 0)) OVER past AS gaps
    FROM (
        SELECT item_id, min(bought_at) AS first_at, epoch(min(bought_at))::BIGINT AS first_sold_s
        FROM item_purchases GROUP BY 1) AS first_sales
    JOIN edges ON edges.edge > first_sales.first_at
    LEFT JOIN (
        SELECT item_id, edge, count(*) FILTER (WHERE nth = 1) AS first_purchases,
               count(*) FILTER (WHERE nth = 2) AS second_purchases,
               fsum(ln(gap_days)) FILTER (WHERE gap_days >= 0.5) AS new_log_gaps,
               count(*) FILTER (WHERE gap_days >= 0.5) AS new_gaps
        FROM item_purchases ASOF JOIN edges ON item_purchases.bought_at < edges.edge
        GROUP BY ALL) AS news
    ON news.item_id = first_sales.item_id AND news.edge = edges.edge
    WINDOW past AS (PARTITION BY first_sales.item_id ORDER BY edges.edge)
"""
"""An item from the first edge after its first sale; until then its buyers, its repeat buyers and
the days between two purchases of one user, of which the geometric mean is taken (two on one day are
one errand)."""

_RECENT = """
    SELECT item_id, edge,
           count(*) FILTER (WHERE in_28d AND last_before_edge) AS buyers_28d,
           count(*) FILTER (WHERE in_7d AND last_before_edge) AS buyers_7d,
           count(*) FILTER (WHERE in_28d) AS purchases_28d,
           count(*) FILTER (WHERE in_28d AND nth = 1) AS first_buyers_28d,
           count(*) FILTER (WHERE in_56d AND NOT in_28d
               AND (next_at IS NULL OR next_at >= edge_28d)) AS buyers_before,
           fsum(price * quantity) FILTER (WHERE in_28d)
               / sum(quantity) FILTER (WHERE in_28d AND price IS NOT NULL) AS price_28d,
           median(price) AS price_usual,
           1 - fsum(price * quantity) FILTER (WHERE in_28d AND list_price > 0)
               / fsum(list_price * quantity)
                   FILTER (WHERE in_28d AND list_price > 0 AND price IS NOT NULL) AS discount_28d
    FROM (
        SELECT item_purchases.*, edge, edge_28d,
               bought_at >= edge_7d AS in_7d, bought_at >= edge_28d AS in_28d,
               bought_at >= edge_56d AS in_56d,
               next_at IS NULL OR next_at >= edge AS last_before_edge
        FROM item_purchases JOIN edges
        ON edge > bought_at AND edge_84d <= bought_at)
    GROUP BY ALL
"""
"""The last 84 days before each edge. A buyer is counted at the last purchase before the edge."""

_PROMOTED = """
    SELECT item_id, edge, max(share) FILTER (WHERE kind = 'display') AS display_share,
           max(share) FILTER (WHERE kind = 'mailer') AS mailer_share,
           count(*) FILTER (WHERE kind = 'coupon' AND valid_until > edge) AS coupons_active
    FROM item_context JOIN edges ON event_timestamp < edge AND valid_until >= edge
    GROUP BY ALL
"""
"""What is known strictly before each edge: the week that ends there, campaigns under way."""
