"""Small shops, written as canonical tables by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs.canonical import ITEM_ATTRIBUTES, USER_ATTRIBUTES
from feature_repo.jobs.user_history import TIMESTAMP

Id = int | str

START = datetime(2020, 1, 6, tzinfo=UTC)
"""A Monday."""


def day(days: float) -> datetime:
    """The time so many days after the start."""
    return START + timedelta(days=days)


def purchase(user: Id, item: Id, at: datetime, **values: Any) -> dict[str, Any]:
    """One canonical purchase."""
    defaults = {"event_type": "purchase", "quantity": 1, "price": 2.0, "list_price": 2.0}
    row = {"user_id": user, "item_id": item, "event_timestamp": at, "session_id": None}
    return {**row, **defaults, **values}


def context(
    item: Id, kind: str, since: datetime, until: datetime, share: float = 1.0
) -> dict[str, Any]:
    """One promotion or coupon."""
    return {
        "item_id": item,
        "event_timestamp": since,
        "valid_until": until,
        "kind": kind,
        "share": share,
    }


def write_shop(
    root: Path,
    events: Sequence[Mapping[str, Any]],
    promotions: Sequence[Mapping[str, Any]] = (),
    profiles: Sequence[Mapping[str, Any]] = (),
    *,
    name: str = "small_shop",
    edges: tuple[float, float, float, float] = (28, 35, 42, 49),
    history_items: int = 200,
    half_life_days: float = 56.0,
) -> Dataset:
    """Write a shop's canonical tables and ``dataset.json``; edges are days after the start."""
    user_id, item_id = (_id_type(events[0][key]) for key in ("user_id", "item_id"))
    keys = {"user_id": id_arrow_type(user_id), "item_id": id_arrow_type(item_id)}
    ordered = sorted(events, key=lambda e: (e["user_id"], e["event_timestamp"], e["item_id"]))
    canonical = root / "canonical"
    canonical.mkdir(parents=True, exist_ok=True)
    optional = {name: kind for name, kind in OPTIONAL_TYPES.items() if name in ordered[0]}
    _write(canonical / "events.parquet", ordered, {**keys, **EVENT_TYPES, **optional})
    _write(canonical / "item_context.parquet", promotions, {**keys, **CONTEXT_TYPES}, "user_id")
    item_types = {column: ITEM_TYPES[kind] for column, kind in ITEM_ATTRIBUTES.items()}
    for table, key, attributes, more in (
        ("users", "user_id", dict.fromkeys(USER_ATTRIBUTES, pa.string()), profiles),
        ("items", "item_id", item_types, ()),
    ):
        ids = sorted({event[key] for event in events})
        rows = [*({key: value, "event_timestamp": START} for value in ids), *more]
        types = {key: keys[key], "event_timestamp": TIMESTAMP, **attributes}
        _write(canonical / f"{table}.parquet", rows, types)
    last = max(event["event_timestamp"] for event in events)
    dataset = Dataset(
        name=name,
        root=root,
        user_id=user_id,
        item_id=item_id,
        clock=Clock.AS_OF,
        start=START,
        end=last + timedelta(seconds=1),
        edges=(day(edges[0]), day(edges[1]), day(edges[2]), day(edges[3])),
        history_items=history_items,
        half_life_days=half_life_days,
    )
    dataset.save()
    return dataset


EVENT_TYPES = {
    "event_type": pa.string(),
    "event_timestamp": TIMESTAMP,
    "quantity": pa.int64(),
    "price": pa.float64(),
    "list_price": pa.float64(),
    "session_id": pa.string(),
}
OPTIONAL_TYPES = {"position": pa.int64(), "propensity": pa.float64()}
"""Of events, where the first one has them."""
CONTEXT_TYPES = {
    "event_timestamp": TIMESTAMP,
    "valid_until": TIMESTAMP,
    "kind": pa.string(),
    "share": pa.float32(),
}
ITEM_TYPES = {"VARCHAR": pa.string(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_()}


def _id_type(value: Id) -> IdType:
    return IdType.STRING if isinstance(value, str) else IdType.INT64


def _write(
    path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType], *without: str
) -> None:
    kept = {column: kind for column, kind in types.items() if column not in without}
    columns = {column: [row.get(column) for row in rows] for column in kept}
    pq.write_table(pa.table(columns, schema=pa.schema(kept)), path)


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection in UTC."""
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET threads = 1")
        yield connection
    finally:
        connection.close()
