"""Source ``parquet``: a shop's own Parquet or CSV files, under its own column names."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import duckdb

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.events import EventType
from feature_repo.jobs.canonical import (
    ITEM_ATTRIBUTES,
    OPTIONAL_EVENTS,
    PURCHASE,
    USER_ATTRIBUTES,
    Staged,
    sql_type,
)
from feature_repo.jobs.config import Columns, DataConfig
from feature_repo.jobs.database import name, row, rows, text
from feature_repo.jobs.shop_file import TEXT, ShopFile, file_paths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntityFile:
    """How users or items are read: their key, attributes, and where the settings name them."""

    key: str
    timestamp: str
    """Name of the validity column among the settings."""
    attributes: dict[str, str]
    """Canonical column -> DuckDB type."""

    def chosen(self, columns: Columns, attribute: str) -> str | None:
        """The shop's column for an attribute."""
        setting = "item_price" if attribute == "price" else attribute
        value: str | None = getattr(columns, setting)
        return value


USERS = EntityFile("user_id", "user_timestamp", dict.fromkeys(USER_ATTRIBUTES, TEXT))
ITEMS = EntityFile("item_id", "item_timestamp", ITEM_ATTRIBUTES)


def source_files(config: DataConfig) -> list[Path]:
    """The shop's files.

    Raises:
        ConfigError: no events were given.
        BadInput: a file does not exist.
    """
    if config.events is None:
        raise ConfigError(
            "data.events is not set: give the Parquet or CSV file of the shop's purchases, such "
            "as data.events=/shop/orders.csv."
        )
    given = {"events": config.events, "users": config.users, "items": config.items}
    return [
        path
        for setting, value in given.items()
        if value is not None
        for path in file_paths(f"data.{setting}", value)
    ]


def stage(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> Staged:
    """Stage events, users and items; the shop brings no promotions.

    Raises:
        BadInput: a column is missing, a value cannot be read, or an id is there twice.
    """
    source_files(config)
    events = ShopFile.open(connection, "data.events", str(config.events))
    users = _optional(connection, "data.users", config.users)
    items = _optional(connection, "data.items", config.items)
    user_id = _id_type(connection, config.columns.user_id, "user_id", events, users)
    item_id = _id_type(connection, config.columns.item_id, "item_id", events, items)
    connection.execute(f"SET TimeZone = {text(config.timezone)}")
    try:
        counts = _stage_events(connection, config, events, user_id, item_id)
        _stage_entities(connection, config, USERS, events, users, user_id)
        _stage_entities(connection, config, ITEMS, events, items, item_id)
    finally:
        connection.execute("SET TimeZone = 'UTC'")
    connection.execute("DROP TABLE shop_lines")
    connection.execute(
        f"CREATE TABLE raw_context (item_id {sql_type(item_id)}, event_timestamp TIMESTAMPTZ, "
        "valid_until TIMESTAMPTZ, kind VARCHAR, share FLOAT)"
    )
    return Staged(user_id, item_id, counts, str(config.events))


def _optional(
    connection: duckdb.DuckDBPyConnection, setting: str, path: str | None
) -> ShopFile | None:
    return None if path is None else ShopFile.open(connection, setting, path)


def _id_type(
    connection: duckdb.DuckDBPyConnection,
    chosen: str | None,
    canonical: str,
    events: ShopFile,
    entities: ShopFile | None,
) -> IdType:
    """Integers where every file has whole numbers, else strings."""
    files = [events] if entities is None else [events, entities]
    for file in files:
        column = _key_column(file, canonical, chosen)
        if not file.holds_whole_numbers(connection, column):
            return IdType.STRING
    return IdType.INT64


def _key_column(file: ShopFile, canonical: str, chosen: str | None) -> str:
    """The id column; a users or items file may also call it by its canonical name."""
    if file.setting != "data.events" and chosen not in file.types and canonical in file.types:
        chosen = canonical
    column = file.find(canonical, chosen, required=True)
    assert column is not None
    return column


def _stage_events(
    connection: duckdb.DuckDBPyConnection,
    config: DataConfig,
    file: ShopFile,
    user_id: IdType,
    item_id: IdType,
) -> dict[str, int]:
    values = _event_values(connection, config, file, user_id, item_id)
    selected = ", ".join(f"{value} AS {column}" for column, value in values.items())
    connection.execute(
        f"CREATE OR REPLACE TABLE shop_lines AS SELECT * EXCLUDE (cancelled), CASE "
        "WHEN user_id IS NULL THEN 'dropped: no user' "
        "WHEN item_id IS NULL THEN 'dropped: no item' "
        "WHEN cancelled THEN 'dropped: cancelled' "
        f"WHEN event_type = {text(PURCHASE)} AND raw_quantity <= 0 "
        "THEN 'dropped: quantity of zero or less' "
        f"WHEN event_type = {text(PURCHASE)} AND price < 0 THEN 'dropped: price below zero' "
        f"END AS reason FROM (SELECT {selected} FROM {file.table})"
    )
    logged = "".join(f", {column}" for column in OPTIONAL_EVENTS if column in values)
    connection.execute(
        "CREATE TABLE raw_events AS SELECT user_id, item_id, event_type, event_timestamp, "
        "greatest(round(raw_quantity), 1)::BIGINT AS quantity, price, list_price, session_id"
        f"{logged} FROM shop_lines WHERE reason IS NULL"
    )
    dropped = rows(
        connection,
        "SELECT reason, count(*) FROM shop_lines WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1",
    )
    return {"lines": row(connection, "SELECT count(*) FROM shop_lines")[0], **dict(dropped)}


def _event_values(
    connection: duckdb.DuckDBPyConnection,
    config: DataConfig,
    file: ShopFile,
    user_id: IdType,
    item_id: IdType,
) -> dict[str, str]:
    """Canonical event column -> SQL expression over the shop's file."""
    columns = config.columns
    user = _key_column(file, "user_id", columns.user_id)
    item = _key_column(file, "item_id", columns.item_id)
    values = {
        "user_id": file.cast(connection, user, sql_type(user_id)),
        "item_id": file.cast(connection, item, sql_type(item_id)),
        "event_timestamp": _event_time(connection, config, file),
        "event_type": _event_type(connection, config, file),
        "cancelled": _cancelled(config, file),
    }
    numbers = {"raw_quantity": "quantity", "price": "price", "list_price": "list_price"}
    for target, canonical in numbers.items():
        column = file.find(canonical, getattr(columns, canonical))
        values[target] = file.cast(connection, column, "DOUBLE") if column else "NULL::DOUBLE"
    values["raw_quantity"] = f"coalesce({values['raw_quantity']}, 1)"
    session = file.find("session_id", columns.session_id)
    values["session_id"] = file.cast(connection, session, TEXT) if session else "NULL::VARCHAR"
    for logged, kind in OPTIONAL_EVENTS.items():
        column = file.find(logged, getattr(columns, logged))
        if column is not None:
            values[logged] = file.cast(connection, column, kind)
    for entity, other in ((USERS, config.users), (ITEMS, config.items)):
        if other is None:
            values |= _attributes(connection, columns, entity, file)
    return values


def _event_time(connection: duckdb.DuckDBPyConnection, config: DataConfig, file: ShopFile) -> str:
    column = file.find("event_timestamp", config.columns.event_timestamp, required=True)
    assert column is not None
    parsed = file.time(connection, column, config.time_format)
    empty = file.first_row(connection, f"{parsed} IS NULL", column)
    if empty is not None:
        raise BadInput(
            f"{file.path}, column {column!r}, row {empty[0]} is empty; every event needs a time."
        )
    return parsed


def _event_type(connection: duckdb.DuckDBPyConnection, config: DataConfig, file: ShopFile) -> str:
    column = file.find("event_type", config.columns.event_type)
    if column is None:
        return text(PURCHASE)
    value = f"lower({file.cast(connection, column, TEXT)})"
    known = [kind.value for kind in EventType]
    listed = ", ".join(text(kind) for kind in known)
    parsed = f"CASE WHEN {value} IN ({listed}) THEN {value} END"
    file.require(connection, column, parsed, f"one of {', '.join(known)}")
    return f"coalesce({value}, {text(PURCHASE)})"


def _cancelled(config: DataConfig, file: ShopFile) -> str:
    if config.cancelled_column is None:
        return "false"
    if config.cancelled_column not in file.types:
        raise BadInput(
            f"{file.path} has no column {config.cancelled_column!r} (data.cancelled_column); "
            f"it has {', '.join(file.types)}."
        )
    value = f"{name(config.cancelled_column)}::VARCHAR"
    return f"coalesce(starts_with({value}, {text(config.cancelled_prefix)}), false)"


def _attributes(
    connection: duckdb.DuckDBPyConnection, columns: Columns, entity: EntityFile, file: ShopFile
) -> dict[str, str]:
    """Attribute -> SQL expression over a file; those that it lacks are left out."""
    found = {}
    for attribute, kind in entity.attributes.items():
        chosen = entity.chosen(columns, attribute)
        if attribute == "price" and chosen is None and file.setting == "data.events":
            continue  # an event's price is what was paid
        column = file.find(attribute, chosen)
        if column is not None:
            prefix = "attribute_" if file.setting == "data.events" else ""
            found[f"{prefix}{attribute}"] = file.cast(connection, column, kind)
    return found


def _stage_entities(
    connection: duckdb.DuckDBPyConnection,
    config: DataConfig,
    entity: EntityFile,
    events: ShopFile,
    file: ShopFile | None,
    id_type: IdType,
) -> None:
    """Stage users or items: those of their file, and those that only the events know."""
    table = "raw_users" if entity is USERS else "raw_items"
    if file is None:
        _stage_from_events(connection, entity, table)
    else:
        _stage_from_file(connection, config, entity, table, file, id_type)


def _stage_from_events(
    connection: duckdb.DuckDBPyConnection, entity: EntityFile, table: str
) -> None:
    """An entity's attributes are those of its first event that has them."""
    known = {line[0] for line in rows(connection, "DESCRIBE shop_lines")}
    columns = ", ".join(
        f"arg_min(attribute_{attribute}, event_timestamp) "
        f"FILTER (WHERE attribute_{attribute} IS NOT NULL) AS {attribute}"
        if f"attribute_{attribute}" in known
        else f"NULL::{kind} AS {attribute}"
        for attribute, kind in entity.attributes.items()
    )
    connection.execute(
        f"CREATE TABLE {table} AS SELECT {entity.key}, NULL::TIMESTAMPTZ AS event_timestamp, "
        f"{columns} FROM shop_lines WHERE reason IS NULL GROUP BY {entity.key}"
    )


def _stage_from_file(
    connection: duckdb.DuckDBPyConnection,
    config: DataConfig,
    entity: EntityFile,
    table: str,
    file: ShopFile,
    id_type: IdType,
) -> None:
    key_column = _key_column(file, entity.key, getattr(config.columns, entity.key))
    key = file.cast(connection, key_column, sql_type(id_type))
    time_column = file.find("event_timestamp", getattr(config.columns, entity.timestamp))
    time = file.time(connection, time_column, config.time_format) if time_column else "NULL"
    _require_ids(connection, file, key_column, key, time)
    found = _attributes(connection, config.columns, entity, file)
    values = {
        attribute: found.get(attribute, f"NULL::{kind}")
        for attribute, kind in entity.attributes.items()
    }
    selected = ", ".join(f"{value} AS {attribute}" for attribute, value in values.items())
    connection.execute(
        f"CREATE TABLE {table} AS SELECT {key} AS {entity.key}, "
        f"({time})::TIMESTAMPTZ AS event_timestamp, {selected} FROM {file.table}"
    )
    connection.execute(
        f"INSERT INTO {table} BY NAME SELECT DISTINCT {entity.key} FROM raw_events "
        f"WHERE {entity.key} NOT IN (SELECT {entity.key} FROM {table})"
    )


def _require_ids(
    connection: duckdb.DuckDBPyConnection, file: ShopFile, column: str, key: str, time: str
) -> None:
    empty = file.first_row(connection, f"{key} IS NULL", column)
    if empty is not None:
        raise BadInput(f"{file.path}, column {column!r}, row {empty[0]} is empty; expected an id.")
    repeated = rows(
        connection,
        f"SELECT number, id FROM (SELECT number, id, count(*) OVER "
        f"(PARTITION BY id, valid_from ORDER BY number) AS nth FROM ("
        f"SELECT row_number() OVER () AS number, {key} AS id, {time} AS valid_from "
        f"FROM {file.table})) WHERE nth > 1 ORDER BY number LIMIT 1",
    )
    if repeated:
        number, value = repeated[0]
        raise BadInput(
            f"{file.path}, column {column!r}, row {number}: the id {value!r} was there before; "
            "expected one row an id (or one a validity time)."
        )
