"""A small shop on disk: events, and the training sets that the jobs would make of them.

Users of one taste buy items of one half of the range, so that there is something to learn.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.artifacts import write_json, write_table
from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.schema import Derive, Encoding, Entity, Feature, Schema
from feature_repo.contract.state import UserState, fold

NUM_USERS, NUM_ITEMS, NUM_DAYS = 30, 40, 60
START = datetime(2021, 1, 1, tzinfo=UTC)
EDGES = tuple(START + timedelta(days=day) for day in (30, 40, 50, 60))
TIME = pa.timestamp("us", tz="UTC")

SCHEMA = Schema(
    "retrieval_v1",
    (
        Feature("segment", Entity.USER, "user_profile", "String", Encoding.CATEGORICAL, 8),
        Feature(
            "last_event_s",
            Entity.USER,
            "user_activity",
            "Int64",
            Encoding.NUMERIC,
            8,
            Derive.DAYS_SINCE,
        ),
        Feature(
            "history_item_id",
            Entity.USER,
            "user_history",
            "Array(Int64)",
            Encoding.BAG,
            bag_of="item_id",
            bag_weight="history_weight",
        ),
        *(
            Feature(name, Entity.USER, "user_history", "Array(Int64)", Encoding.STATE)
            for name in ("history_count", "history_first_s", "history_last_s")
        ),
        *(
            Feature(name, Entity.USER, "user_history", "Array(Float32)", Encoding.STATE)
            for name in ("history_weight", "history_gap_sq", "history_gap_last")
        ),
        Feature("title", Entity.ITEM, "item_attributes", "String", Encoding.NONE),
        Feature("category", Entity.ITEM, "item_attributes", "String", Encoding.CATEGORICAL, 16),
        Feature("price", Entity.ITEM, "item_attributes", "Float32", Encoding.NUMERIC, 8),
    ),
)

LISTS = {
    "history_item_id": pa.int64(),
    "history_count": pa.int64(),
    "history_weight": pa.float32(),
    "history_first_s": pa.int64(),
    "history_last_s": pa.int64(),
    "history_gap_sq": pa.float32(),
    "history_gap_last": pa.float32(),
    "target_item_id": pa.int64(),
}


def taste(user: int) -> int:
    """Which half of the range a user buys from."""
    return user % 2


def baskets(seed: int = 3) -> dict[tuple[int, datetime], list[int]]:
    """(user, time) -> items: every user shops each third day, in the own half of the range."""
    random = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, NUM_ITEMS // 2 + 1)
    found = {}
    for user in range(NUM_USERS):
        for day in range(user % 3, NUM_DAYS, 3):
            drawn = random.choice(NUM_ITEMS // 2, 3, False, popularity / popularity.sum())
            time = START + timedelta(days=day, hours=9, minutes=user)
            found[user, time] = sorted(int(item) * 2 + taste(user) + 100 for item in drawn)
    return found


def make_shop(root: Path, edge: int = 1, row_group_size: int = 64) -> Dataset:
    """Write the shop and its sets at one edge into ``root``."""
    dataset = Dataset(
        name="shop",
        root=root,
        user_id=IdType.INT64,
        item_id=IdType.INT64,
        clock=Clock.AS_OF,
        start=START,
        end=EDGES[3],
        edges=(EDGES[0], EDGES[1], EDGES[2], EDGES[3]),
    )
    dataset.save()
    write_events(dataset, baskets())
    write_sets(dataset, edge, row_group_size)
    return dataset


def write_events(dataset: Dataset, found: dict[tuple[int, datetime], list[int]]) -> None:
    """Write the canonical events."""
    lines = [(user, item, time) for (user, time), items in found.items() for item in items]
    table = pa.table(
        {
            "user_id": [line[0] for line in lines],
            "item_id": [line[1] for line in lines],
            "event_type": ["purchase"] * len(lines),
            "event_timestamp": pa.array([line[2] for line in lines], TIME),
        }
    )
    write_table(dataset.canonical / "events.parquet", table)


def write_sets(dataset: Dataset, edge: int, row_group_size: int) -> None:
    """Write the sessions and the users at an edge, as the jobs do."""
    cutoff, until = dataset.edges[edge], dataset.edges[edge + 1]
    states: dict[int, UserState] = defaultdict(UserState)
    later: dict[int, set[int]] = defaultdict(set)
    sessions = []
    for (user, time), items in sorted(baskets().items(), key=lambda entry: entry[0][1]):
        if time < cutoff:
            sessions.append(_row(user, time, states[user], items))
            states[user] = fold(states[user], items, int(time.timestamp()))
        elif time < until:
            later[user].update(items)
    users = [_row(user, cutoff, states[user], sorted(later[user])) for user in sorted(states)]
    _write(dataset, f"retrieval_v1-sessions-t{edge}", sessions, cutoff, row_group_size)
    _write(dataset, f"ranking_v1-users-t{edge}", users, cutoff, row_group_size)


def _row(user: int, time: datetime, state: UserState, items: list[int]) -> dict[str, Any]:
    return {
        "user_id": user,
        "event_timestamp": time - timedelta(microseconds=1),
        "segment": None if user == 0 else f"taste {taste(user)}",
        "last_event_s": state.last_s,
        **state.to_row(),
        "target_item_id": items,
    }


def user_table(rows: list[dict[str, Any]]) -> pa.Table:
    """User rows as a table of the right types."""
    types = {
        "user_id": pa.int64(),
        "event_timestamp": TIME,
        "segment": pa.string(),
        "last_event_s": pa.int64(),
        **{name: pa.list_(kind) for name, kind in LISTS.items()},
    }
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    )


def item_table(cutoff: datetime) -> pa.Table:
    """The items; the last one has no attributes."""
    ids = list(range(100, 100 + NUM_ITEMS))
    known = ids[:-1]
    return pa.table(
        {
            "item_id": ids,
            "event_timestamp": pa.array([cutoff - timedelta(microseconds=1)] * len(ids), TIME),
            "title": [*(f"Item {item}" for item in known), None],
            "department": [*(f"department {item % 2}" for item in known), None],
            "category": [*(f"category {item % 2}" for item in known), None],
            "subcategory": [*(f"subcategory {item % 4}" for item in known), None],
            "brand": pa.array([None] * len(ids), pa.string()),
            "price": pa.array([*(float(item % 7) for item in known), None], pa.float32()),
        }
    )


def _write(
    dataset: Dataset, name: str, rows: list[dict[str, Any]], cutoff: datetime, group: int
) -> None:
    folder = dataset.sets / name
    SCHEMA.save(folder / "schema.json")
    write_table(folder / "users.parquet", user_table(rows), group)
    write_table(folder / "items.parquet", item_table(cutoff))
    until = (cutoff + (EDGES[1] - EDGES[0])).isoformat()
    about = {"format": 1, "name": name, "rows": len(rows), "until": until}
    write_json(folder / "set.json", about)


def overrides(dataset: Dataset, runs: Path) -> list[str]:
    """What names the shop on a command line."""
    return [
        "data=parquet",
        f"data.name={dataset.name}",
        f"data.root={dataset.root}",
        f"paths.runs={runs}",
    ]
