"""A feature store with a view for every case, for tests that write it online."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)
from redis import Redis

ENGINE = {"type": "feature_repo.jobs.redis_engine.RedisComputeEngine"}
DAY = timedelta(days=1)
START = datetime(2017, 11, 1, tzinfo=UTC)
END = datetime(2017, 11, 28, tzinfo=UTC)
EARLY = datetime(2017, 11, 7, 5, 30, tzinfo=UTC)
LATE = datetime(2017, 11, 26, 5, 30, 0, 123_456, tzinfo=UTC)

USERS = [7, -1, 2**62]
TIMES = [EARLY, LATE, EARLY]
Columns = dict[str, tuple[FeastType, pa.DataType, list[Any]]]

SCALARS: Columns = {
    "text": (String, pa.string(), ["19-24", None, ""]),
    "large_text": (String, pa.large_string(), ["ü" * 200, "", None]),
    "number": (Int64, pa.int64(), [2**62 + 1, 0, -3]),
    "number_or_none": (Int64, pa.int64(), [2**53 - 1, None, -3]),
    "small_number": (Int32, pa.int32(), [2**31 - 1, -(2**31), None]),
    "real": (Float32, pa.float32(), [12.5, None, -0.0]),
    "rounded": (Float32, pa.float64(), [0.1, 1e300, float("nan")]),
    "double": (Float64, pa.float64(), [0.1, None, 1e300]),
    "flag": (Bool, pa.bool_(), [True, None, False]),
    "raw": (Bytes, pa.binary(), [b"\x00\xff\r\n", None, b""]),
    "when": (UnixTimestamp, pa.timestamp("us", tz="UTC"), [LATE, None, EARLY]),
    "nothing": (String, pa.string(), [None, None, None]),
}
LISTS: Columns = {
    "numbers": (Array(Int64), pa.list_(pa.int64()), [[2**62 + 1, -7, 0], None, []]),
    "small_numbers": (Array(Int32), pa.list_(pa.int32()), [[1, -2], [], [300]]),
    "reals": (Array(Float32), pa.list_(pa.float32()), [[0.5, None], None, []]),
    "doubles": (Array(Float64), pa.list_(pa.float64()), [[0.1], None, []]),
    "texts": (Array(String), pa.list_(pa.string()), [["a", "", None, "ü" * 90], None, []]),
    "flags": (Array(Bool), pa.list_(pa.bool_()), [[True, None, False], None, []]),
    "raws": (Array(Bytes), pa.list_(pa.binary()), [[b"\x00", b""], None, []]),
    "long": (Array(Int64), pa.list_(pa.int64()), [list(range(500)), [1], None]),
}


def write_source(path: Path, keys: dict[str, Sequence[Any]], columns: Columns) -> None:
    """Write three rows, with ``event_timestamp`` of ``TIMES``."""
    arrays = {name: pa.array(values, kind) for name, (_, kind, values) in columns.items()}
    times = pa.array(TIMES, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({**keys, "event_timestamp": times, **arrays}), path)


def view(
    folder: Path,
    name: str,
    entities: list[Entity],
    keys: dict[str, Sequence[Any]],
    columns: Columns,
    **source: Any,
) -> FeatureView:
    """A view of a source of three rows that is written here."""
    path = folder / f"{name}.parquet"
    write_source(path, keys, columns)
    return FeatureView(
        name=name,
        entities=entities,
        ttl=timedelta(0),
        schema=[Field(name=column, dtype=dtype) for column, (dtype, _, _) in columns.items()],
        source=FileSource(path=str(path), timestamp_field="event_timestamp", **source),
    )


def entity(name: str, value_type: ValueType) -> Entity:
    """An entity whose key is ``<name>_id``."""
    return Entity(name=name, join_keys=[f"{name}_id"], value_type=value_type)


def all_views(folder: Path) -> list[Any]:
    """Entities and views: two of one entity, keys of text, of several parts, of 32 bits."""
    user, shop = entity("user", ValueType.INT64), entity("shop", ValueType.STRING)
    shelf = entity("shelf", ValueType.INT32)
    shops = ["Zoë's", "", "{a}b"]
    one: Columns = {"visits": (Int64, pa.int64(), [1, 2, 3])}
    snapshots = view(folder, "snapshots", [user], {"user_id": USERS}, one)
    _add_older_rows(folder / "snapshots.parquet")
    return [
        *(user, shop, shelf),
        view(folder, "profile", [user], {"user_id": USERS}, SCALARS),
        view(folder, "history", [user], {"user_id": USERS}, LISTS),
        view(folder, "of_shop", [shop], {"shop_id": shops}, one),
        view(
            folder,
            "of_both",
            [user, shop],
            {"user_id": USERS, "shop_id": shops},
            one,
        ),
        view(folder, "of_shelf", [shelf], {"shelf_id": pa.array([1, -1, 0], pa.int32())}, one),
        view(
            folder,
            "renamed",
            [user],
            {"customer": USERS},
            {**one, "visits": (Int64, pa.int64(), [4, 5, 6])},
            field_mapping={"customer": "user_id"},
        ),
        snapshots,
    ]


def _add_older_rows(path: Path) -> None:
    """Older rows of the same users, behind the newest ones."""
    table = pq.read_table(path)
    older = [time - DAY for time in TIMES]
    columns = table.to_pydict() | {"event_timestamp": older, "visits": [-1, -2, -3]}
    pq.write_table(pa.concat_tables([table, pa.table(columns, schema=table.schema)]), path)


def open_shop(
    folder: Path, online: dict[str, Any], engine: dict[str, str] | None, project: str = "shop"
) -> FeatureStore:
    """A feature store on the registry in ``folder``."""
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=online,
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
        **({"batch_engine": engine} if engine else {}),
    )
    return FeatureStore(config=config)


def redis_store(port: int, db: int, **settings: Any) -> dict[str, Any]:
    """Settings of Feast's own Redis store."""
    return {"type": "redis", "connection_string": f"127.0.0.1:{port},db={db}", **settings}


def contents(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    """Every hash of a database."""
    return {key: client.hgetall(key) for key in client.scan_iter()}


def database(port: int, db: int) -> Any:
    """A client of one of the server's databases."""
    return Redis(port=port, db=db)
