"""Source ``synthetic``: a shop of any size with planted preferences (``planted``), in streams."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.jobs.canonical import EVENTS, ITEM_CONTEXT, ITEMS, PURCHASE, USERS, Staged
from feature_repo.jobs.config import DataConfig, Source
from feature_repo.jobs.planted import PlantedShop

Ints = npt.NDArray[np.int64]

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 364
CHUNK = 1 << 20
"""Rows that are made at once."""


def shop_of(config: DataConfig) -> PlantedShop:
    """The shop that the settings describe.

    Raises:
        ConfigError: they are of another source, whose data would be overwritten.
    """
    if config.source is not Source.synthetic:
        raise ConfigError(
            f"data={config.name} is not made up but of source {config.source.value}; give "
            "data=synthetic."
        )
    return PlantedShop(config.num_users, config.num_items, config.seed)


def stage(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> Staged:
    """Put the shop's tables into DuckDB, which writes to disk what passes its memory."""
    for table, key, columns in (
        ("raw_events", "user_id BIGINT, item_id BIGINT", EVENTS),
        ("raw_users", "user_id BIGINT", USERS),
        ("raw_items", "item_id BIGINT", ITEMS),
        ("raw_context", "item_id BIGINT", ITEM_CONTEXT),
    ):
        described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE {table} ({key}, {described})")
    shop = shop_of(config)
    for chunk in chunks(config.num_users):
        _insert(connection, "raw_users", pa.table({"user_id": chunk + 1}))
    for chunk in chunks(config.num_items):
        _insert(connection, "raw_items", item_attributes(shop, chunk))
    with tqdm(total=config.num_events, desc="events", disable=None, leave=False) as bar:
        for table in event_chunks(shop, config.num_events):
            _insert(connection, "raw_events", table)
            bar.update(len(table))
    return Staged(IdType.INT64, IdType.INT64, {"lines": config.num_events}, "The synthetic shop")


def _insert(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("made", table)
    connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM made")
    connection.unregister("made")


def chunks(total: int, size: int = CHUNK) -> Iterator[Ints]:
    """0..total-1 in parts."""
    for start in range(0, total, size):
        yield np.arange(start, min(start + size, total), dtype=np.int64)


def item_attributes(shop: PlantedShop, items: Ints) -> pa.Table:
    """``item_id`` and what a shop knows of an item: its category is its cluster."""
    clusters, ids = items % shop.num_clusters, shop.item_ids(items)
    return pa.table(
        {
            "item_id": ids,
            "title": [f"Item {item}" for item in ids],
            "category": [f"category {cluster + 1}" for cluster in clusters],
            "price": pa.array(1.0 + items % 97, pa.float32()),
        }
    )


def event_chunks(shop: PlantedShop, num_events: int, size: int = CHUNK) -> Iterator[pa.Table]:
    """All purchases, by users; every user has equally many or one more."""
    step = max(1, size * shop.num_users // max(num_events, 1))
    for start in range(0, shop.num_users, step):
        users = np.arange(start, min(start + step, shop.num_users), dtype=np.int64)
        ends = (np.append(users, users[-1] + 1) * num_events) // shop.num_users
        yield _purchases(shop, users, np.diff(ends))


def _purchases(shop: PlantedShop, users: Ints, counts: Ints) -> pa.Table:
    longest = int(counts.max(initial=0))
    places = np.arange(longest, dtype=np.int64)
    there = places < counts[:, None]
    items = shop.items(users, np.broadcast_to(places, (len(users), longest)))[there]
    owner = np.repeat(users, counts)
    # Evenly spread, from a moment of the user's own on.
    part = (np.broadcast_to(places, there.shape) + (users % 97 / 97)[:, None]) / np.maximum(
        counts, 1
    )[:, None]
    seconds = (part[there] * DAYS * 86_400).astype(np.int64) + int(START.timestamp())
    return pa.table(
        {
            "user_id": owner + 1,
            "item_id": shop.item_ids(items),
            "event_type": pa.array([PURCHASE], pa.string()).take(
                pa.array(np.zeros(len(owner), np.int64))
            ),
            "event_timestamp": pa.array(seconds * 1_000_000, pa.timestamp("us", tz="UTC")),
            "quantity": np.ones(len(owner), dtype=np.int64),
            "price": 1.0 + items % 97,
        }
    )
