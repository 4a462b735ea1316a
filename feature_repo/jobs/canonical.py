"""The canonical tables: their columns, and how a source's staged tables become files.

A source (``complete_journey``, ``parquet_shop``) stages DuckDB tables of these columns; ``finish``
sums equal events, samples users, cuts time and writes Parquet and ``dataset.json``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb

from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.events import EventType
from feature_repo.jobs import windows
from feature_repo.jobs.config import ClockChoice, DataConfig
from feature_repo.jobs.database import name, parquet, row, rows, text, write_parquet

log = logging.getLogger(__name__)

PURCHASE = EventType.PURCHASE.value
WALL_AGE = timedelta(days=7)
"""Data whose last event is older than this are historical."""

EVENTS = {
    "event_type": "VARCHAR",
    "event_timestamp": "TIMESTAMPTZ",
    "quantity": "BIGINT",
    "price": "DOUBLE",
    "list_price": "DOUBLE",
    "session_id": "VARCHAR",
}
"""Columns of ``events`` after user_id and item_id. Times are whole seconds."""
OPTIONAL_EVENTS = {"position": "BIGINT", "propensity": "DOUBLE"}
"""Of impressions: the place, from 1, and the probability with which a policy showed the item. They
are columns where the shop logs them."""
COMPACTION = "compaction"
"""Column of the events that came from the feedback log: which compaction brought them last."""
COMPACTED = {COMPACTION: "BIGINT"}

USER_ATTRIBUTES = (
    "age_band",
    "gender",
    "income_band",
    "household_size",
    "household_type",
    "home_ownership",
    "marital_status",
    "children",
    "region",
    "segment",
)
ITEM_ATTRIBUTES = {
    "title": "VARCHAR",
    "department": "VARCHAR",
    "category": "VARCHAR",
    "subcategory": "VARCHAR",
    "brand": "VARCHAR",
    "brand_tier": "VARCHAR",
    "package_size": "VARCHAR",
    "price": "FLOAT",
    "available": "BOOLEAN",
}
USERS = {"event_timestamp": "TIMESTAMPTZ", **dict.fromkeys(USER_ATTRIBUTES, "VARCHAR")}
ITEMS = {"event_timestamp": "TIMESTAMPTZ", **ITEM_ATTRIBUTES}
ITEM_CONTEXT = {
    "event_timestamp": "TIMESTAMPTZ",
    "valid_until": "TIMESTAMPTZ",
    "kind": "VARCHAR",
    "share": "FLOAT",
}


@dataclass(frozen=True)
class Staged:
    """What a source has put into DuckDB: tables raw_events, raw_users, raw_items, raw_context.

    A null ``event_timestamp`` of a user or an item means "since the start of the data".
    """

    user_id: IdType
    item_id: IdType
    counts: dict[str, int]
    """Lines read and lines dropped, by reason."""
    origin: str
    """The file of the events, for error texts."""


def sql_type(id_type: IdType) -> str:
    """DuckDB's type for ids."""
    return "BIGINT" if id_type is IdType.INT64 else "VARCHAR"


def finish(
    connection: duckdb.DuckDBPyConnection, config: DataConfig, staged: Staged, now: datetime
) -> Dataset:
    """Write the canonical tables and, last, ``dataset.json``.

    Raises:
        BadInput: no purchase is left, or a window holds none.
    """
    _sample_users(connection, config.max_users)
    first, last = _span(connection, staged)
    edges = _edges(connection, config, staged, first, last)
    start = windows.snapshot_edges(first, last, edges, config.snapshot_days, config.zone)[0]
    earlier = windows.earlier_edges(first, edges, config.zone)
    counts = dict(staged.counts)
    (config.folder / "dataset.json").unlink(missing_ok=True)  # nobody reads half of a change
    for table in ("events", "users", "items", "item_context"):
        target = config.folder / "canonical" / f"{table}.parquet"
        write_parquet(connection, _query(connection, table, staged, start), target)
        counts[table] = row(connection, f"SELECT count(*) FROM {parquet(target)}")[0]
    dataset = Dataset(
        name=config.name,
        root=config.folder,
        user_id=staged.user_id,
        item_id=staged.item_id,
        clock=_clock(config.clock, last, now),
        start=start,
        end=last + timedelta(seconds=1),
        edges=edges,
        earlier=earlier,
        history_items=config.history_items,
        half_life_days=config.half_life_days,
        columns=_filled_columns(connection, config.folder / "canonical"),
        counts=counts,
    )
    dataset.save()
    return dataset


def _sample_users(connection: duckdb.DuckDBPyConnection, max_users: int | None) -> None:
    """Keep every k-th user of the sorted ids, and their events."""
    if max_users is None:
        return
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE kept_users AS
        SELECT user_id FROM (
            SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS place,
                   count(*) OVER () AS total
            FROM (SELECT DISTINCT user_id FROM raw_events))
        WHERE floor((place + 1) * least({max_users}, total) / total)
            > floor(place * least({max_users}, total) / total)
        """
    )
    for table in ("raw_events", "raw_users"):
        connection.execute(
            f"CREATE OR REPLACE TABLE {table} AS "
            f"SELECT * FROM {table} WHERE user_id IN (SELECT user_id FROM kept_users)"
        )


def _span(connection: duckdb.DuckDBPyConnection, staged: Staged) -> tuple[datetime, datetime]:
    first, last = row(
        connection,
        "SELECT min(event_timestamp), max(event_timestamp) FROM raw_events "
        f"WHERE event_type = {text(PURCHASE)}",
    )
    if first is None:
        raise BadInput(
            f"{staged.origin} has no purchase left (lines by reason: {staged.counts}); "
            "nothing can be learnt from it."
        )
    return _whole_second(first), _whole_second(last)


def _whole_second(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(microsecond=0)


def _edges(
    connection: duckdb.DuckDBPyConnection,
    config: DataConfig,
    staged: Staged,
    first: datetime,
    last: datetime,
) -> windows.Edges:
    cutoff = windows.cutoff_time(config.cutoff, config.zone) if config.cutoff else None
    edges = windows.window_edges(first, last, config.zone, cutoff, config.window_days)
    inside = "event_timestamp >= {} AND event_timestamp < {}"
    parts = ", ".join(
        f"count(*) FILTER (WHERE {inside.format(text(start), text(stop))})"
        for start, stop in pairwise(edges)
    )
    query = f"SELECT {parts} FROM raw_events WHERE event_type = {text(PURCHASE)}"
    problem = windows.empty_windows(edges, row(connection, query))
    if problem is not None:
        raise BadInput(
            f"{staged.origin}: {problem}; set data.cutoff or data.window_days so that every "
            "window has purchases."
        )
    return edges


def _query(
    connection: duckdb.DuckDBPyConnection, table: str, staged: Staged, start: datetime
) -> str:
    user, item = sql_type(staged.user_id), sql_type(staged.item_id)
    match table:
        case "events":
            found = {line[0] for line in rows(connection, "DESCRIBE raw_events")}
            logged = {c: kind for c, kind in OPTIONAL_EVENTS.items() if c in found}
            compacted = {c: kind for c, kind in COMPACTED.items() if c in found}
            return _events_query(user, item, logged, compacted)
        case "users":
            return _entity_query("raw_users", "user_id", user, USERS, start)
        case "items":
            return _entity_query("raw_items", "item_id", item, ITEMS, start)
        case _:
            casts = _casts({"item_id": item, **ITEM_CONTEXT})
            return f"SELECT {casts} FROM raw_context ORDER BY item_id, event_timestamp, kind, share"


def _events_query(user: str, item: str, logged: dict[str, str], compacted: dict[str, str]) -> str:
    """Equal lines summed: quantities add up, prices are means weighted by quantity, of what is
    logged of impressions the least value stays, and of compactions the latest."""
    weighted = {
        column: f"fsum({column} * quantity)"
        f" / sum(quantity) FILTER (WHERE {column} IS NOT NULL) AS {column}"
        for column in ("price", "list_price")
    }
    casts = _casts({"user_id": user, "item_id": item, **EVENTS, **logged, **compacted})
    kept = "".join(f", min({column}) AS {column}" for column in logged)
    kept += "".join(f", max({column}) AS {column}" for column in compacted)
    return f"""
        SELECT {casts} FROM (
            SELECT user_id, item_id, event_type,
                   to_timestamp(floor(epoch(event_timestamp))) AS event_timestamp,
                   sum(quantity) AS quantity, {weighted["price"]}, {weighted["list_price"]},
                   min(session_id) AS session_id{kept}
            FROM raw_events GROUP BY ALL)
        ORDER BY user_id, event_timestamp, item_id, event_type
    """


def _entity_query(
    table: str, key: str, key_type: str, columns: dict[str, str], start: datetime
) -> str:
    since = f"coalesce(event_timestamp::TIMESTAMPTZ, {text(start)}::TIMESTAMPTZ)"
    filled = f"SELECT * REPLACE ({since} AS event_timestamp)"
    casts = _casts({key: key_type, **columns})
    return f"SELECT {casts} FROM ({filled} FROM {table}) ORDER BY {key}, event_timestamp"


def _casts(columns: dict[str, str]) -> str:
    return ", ".join(
        f"{name(column)}::{column_type} AS {name(column)}"
        for column, column_type in columns.items()
    )


def _clock(choice: ClockChoice, last: datetime, now: datetime) -> Clock:
    if choice is ClockChoice.auto:
        return Clock.AS_OF if now - last > WALL_AGE else Clock.WALL
    return Clock(choice.value)


def _filled_columns(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        columns = [line[0] for line in rows(connection, f"DESCRIBE FROM {parquet(path)}")]
        counts = ", ".join(f"count({name(column)})" for column in columns)
        values = row(connection, f"SELECT {counts} FROM {parquet(path)}")
        found[path.stem] = [c for c, count in zip(columns, values, strict=True) if count]
    return found
