"""A shop of a few purchases, written as an ingested data set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.artifacts import write_table
from feature_repo.contract.dataset import Clock, Dataset, IdType

START = datetime(2024, 1, 1, tzinfo=UTC)
T0, T1, T2, T3 = 60, 80, 100, 120
"""Days of the window edges."""

Event = tuple[Any, Any, float]
"""User, item, day since START."""

TIME = pa.timestamp("us", tz="UTC")


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def make_shop(
    root: Path,
    events: Sequence[Event],
    *,
    views: Sequence[Event] = (),
    categories: dict[Any, str] | None = None,
    users: Sequence[Any] = (),
    items: Sequence[Any] = (),
) -> Dataset:
    """Write the canonical tables of a shop whose ids are those of ``events``."""
    lines = [(*event, "purchase") for event in events] + [(*view, "view") for view in views]
    write_table(
        root / "canonical" / "events.parquet",
        pa.table(
            {
                "user_id": [line[0] for line in lines],
                "item_id": [line[1] for line in lines],
                "event_type": [line[3] for line in lines],
                "event_timestamp": pa.array([day(line[2]) for line in lines], TIME),
            }
        ),
    )
    user_ids = sorted({*(line[0] for line in lines), *users})
    item_ids = sorted({*(line[1] for line in lines), *items})
    write_table(root / "canonical" / "users.parquet", pa.table({"user_id": user_ids}))
    write_table(root / "canonical" / "items.parquet", _items(item_ids, categories or {}))
    edges = (day(T0), day(T1), day(T2), day(T3))
    types = [
        IdType.INT64 if isinstance(ids[0], int) else IdType.STRING for ids in (user_ids, item_ids)
    ]
    dataset = Dataset("shop", root, types[0], types[1], Clock.AS_OF, START, day(T3), edges)
    dataset.save()
    return dataset


def _items(item_ids: list[Any], categories: dict[Any, str]) -> pa.Table:
    missing = pa.nulls(len(item_ids), pa.string())
    return pa.table(
        {
            "item_id": item_ids,
            "event_timestamp": pa.array([START] * len(item_ids), TIME),
            "department": missing,
            "category": pa.array([categories.get(item) for item in item_ids], pa.string()),
            "subcategory": missing,
            "brand": missing,
        }
    )


def write_lists(path: Path, lists: dict[Any, list[Any]], **columns: list[Any]) -> Path:
    """Write lists as ``serving.batch`` does; ``columns`` replace those made from ``lists``."""
    table: dict[str, Any] = {
        "user_id": [user for user, items in lists.items() for _ in items],
        "item_id": [item for items in lists.values() for item in items],
        "rank": [place for items in lists.values() for place in range(1, len(items) + 1)],
    }
    table |= {"score": [0.5] * len(table["rank"]), "source": ["ann"] * len(table["rank"])}
    write_table(path, pa.table(table | columns))
    return path


def random_shop(
    root: Path, num_users: int = 60, num_items: int = 40, num_events: int = 2_000
) -> Dataset:
    """A shop of random purchases in which some items are bought more than others."""
    random = np.random.default_rng(7)
    popularity = 1.0 / np.arange(1, num_items + 1)
    events = zip(
        (f"u{user}" for user in random.integers(0, num_users, num_events)),
        (
            f"i{item}"
            for item in random.choice(num_items, num_events, p=popularity / popularity.sum())
        ),
        random.uniform(0, T3, num_events),
        strict=True,
    )
    categories = {f"i{item}": f"c{item % 5}" for item in range(num_items)}
    return make_shop(root, list(events), categories=categories)
