"""Job ``state``: the Feast sources, of users and items at every snapshot, computed by DuckDB.

The same state as ``feature_repo.contract.state.fold`` makes, one range of users at a time. A
user has a snapshot at the edges that follow a week with a purchase; its ``event_timestamp`` is
the time of the last purchase that it contains, and microseconds that tell rows of equal such times
apart (``feature_repo.contract.marks``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from tqdm import tqdm

from feature_repo.contract import marks
from feature_repo.contract import state as folded_state
from feature_repo.contract.dataset import Dataset
from feature_repo.jobs import item_activity, user_activity, user_history, user_seen, windows
from feature_repo.jobs.canonical import COMPACTION, PURCHASE
from feature_repo.jobs.config import DataConfig, JobConfig
from feature_repo.jobs.database import (
    connect,
    open_writer,
    parquet,
    rows,
    text,
    write_parquet,
)
from feature_repo.jobs.stage import Stage

log = logging.getLogger(__name__)

PARTITION_EVENTS = 250_000
"""Events of one range of users: what bounds the memory."""

TABLES = ("events", "users", "items", "item_context")
VIEWS = (
    "user_profile",
    "user_history",
    "user_activity",
    "user_seen",
    "item_attributes",
    "item_activity",
)


@dataclass(frozen=True)
class UserRange:
    """Users with ``start <= user_id < stop`` in the order of ids; None is open."""

    start: Any
    stop: Any

    @property
    def condition(self) -> str:
        """The range as an SQL condition."""
        parts = []
        if self.start is not None:
            parts.append(f"user_id >= {_literal(self.start)}")
        if self.stop is not None:
            parts.append(f"user_id < {_literal(self.stop)}")
        return " AND ".join(parts) or "true"


def _literal(user_id: Any) -> str:
    return text(user_id) if isinstance(user_id, str) else str(user_id)


def make_state(config: JobConfig) -> Dataset:
    """Write the Feast sources of an ingested data set, or find them unchanged.

    Raises:
        ArtifactError: the data set was not ingested.
    """
    dataset = config.data.dataset()
    stage = stage_of(config.data, dataset)
    if not config.force and stage.is_current():
        return dataset
    edges = edges_of(dataset, config.data)
    with connect(config, dataset.root) as connection:
        for source, target in (("users", "user_profile"), ("items", "item_attributes")):
            query = f"FROM {parquet(dataset.canonical / f'{source}.parquet')}"
            write_parquet(connection, query, dataset.features / f"{target}.parquet")
        write_user_state(connection, dataset, edges)
        item_activity.write_item_activity(connection, dataset)
    stage.done()
    return dataset


def edges_of(dataset: Dataset, config: DataConfig) -> list[datetime]:
    """Every snapshot's time, rising."""
    last = dataset.end - timedelta(seconds=1)
    edges = (*dataset.earlier, *dataset.edges)
    return windows.snapshot_edges(dataset.start, last, edges, config.snapshot_days, config.zone)


def stage_of(config: DataConfig, dataset: Dataset) -> Stage:
    """The inputs and outputs of this job."""
    inputs = [dataset.canonical / f"{table}.parquet" for table in TABLES]
    outputs = [dataset.features / f"{view}.parquet" for view in VIEWS]
    settings = {
        "edges": [str(edge) for edge in edges_of(dataset, config)],
        "history_items": dataset.history_items,
        "half_life_days": dataset.half_life_days,
    }
    code = [
        folded_state,
        marks,
        item_activity,
        user_activity,
        user_history,
        user_seen,
        sys.modules[__name__],
    ]
    return Stage("state", dataset.root, inputs, settings, outputs, code)


def write_user_state(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    edges: Sequence[datetime],
    partition_events: int = PARTITION_EVENTS,
) -> None:
    """Write the sources of the views over users' purchases, sorted by user and time."""
    events = dataset.canonical / "events.parquet"
    stage_edges(connection, edges)
    ranges = user_ranges(connection, events, partition_events)
    history = user_history.history_schema(dataset.user_id, dataset.item_id)
    activity = user_activity.activity_schema(dataset.user_id)
    seen = user_seen.seen_schema(dataset.user_id, dataset.item_id)
    with ExitStack() as stack:
        write_history = open_writer(stack, dataset.features / "user_history.parquet", history)
        write_activity = open_writer(stack, dataset.features / "user_activity.parquet", activity)
        write_seen = open_writer(stack, dataset.features / "user_seen.parquet", seen)
        for users in _progress(ranges):
            _stage_purchases(connection, parquet(events), users)
            write_history.write_table(user_history.histories(connection, dataset, history))
            write_activity.write_table(user_activity.activities(connection, dataset, activity))
            write_seen.write_table(user_seen.seen_items(connection, dataset, seen))


def stage_edges(connection: duckdb.DuckDBPyConnection, edges: Sequence[datetime]) -> None:
    """Stage the table ``edges``: each snapshot's time and the beginnings of its windows."""
    columns = {"edge": timedelta(0), "just_before": timedelta(microseconds=1)}
    columns |= {f"edge_{days}d": timedelta(days) for days in item_activity.WINDOW_DAYS}
    values = ", ".join(
        "(" + ", ".join(text(edge - earlier) for earlier in columns.values()) + ")"
        for edge in edges
    )
    casts = ", ".join(f"{column}::TIMESTAMPTZ AS {column}" for column in columns)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE edges AS "
        f"SELECT {casts} FROM (VALUES {values}) AS listed({', '.join(columns)}) ORDER BY edge"
    )


def _progress(ranges: Sequence[UserRange]) -> Iterator[UserRange]:
    for index, users in enumerate(tqdm(ranges, "user state", unit="part", disable=None)):
        yield users
        if (index + 1) % 10 == 0 or index + 1 == len(ranges):
            log.info("User state: %d of %d ranges of users.", index + 1, len(ranges))


def user_ranges(
    connection: duckdb.DuckDBPyConnection, events: Path, partition_events: int
) -> list[UserRange]:
    """Ranges of users of about ``partition_events`` events, from the sorted events file."""
    query = (
        f"SELECT DISTINCT user_id FROM read_parquet({text(events)}, file_row_number = true) "
        f"WHERE file_row_number > 0 AND file_row_number % {partition_events} = 0 ORDER BY user_id"
    )
    bounds = [line[0] for line in rows(connection, query)]
    return [
        UserRange(start, stop) for start, stop in zip([None, *bounds], [*bounds, None], strict=True)
    ]


def _stage_purchases(connection: duckdb.DuckDBPyConnection, events: str, users: UserRange) -> None:
    """One row a purchased item and time, with its place in the user's sequence.

    ``place`` orders a user's purchases from the state's last entry to its first: by time, and
    within one time by falling id. ``snapshot`` numbers the user's snapshots from 1; ``revision``
    is that of the user's row at it (``feature_repo.contract.marks``).
    """
    columns = {line[0] for line in rows(connection, f"DESCRIBE FROM {events}")}
    revised = "0"
    if COMPACTION in columns:
        revised = (
            f"{marks.revision(1)} * max(coalesce({COMPACTION}, 0)) "
            "OVER (PARTITION BY user_id ORDER BY edge)"
        )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE purchases AS
        SELECT user_id, item_id, epoch(event_timestamp)::BIGINT AS time_s,
               quantity, price, list_price,
               row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp, item_id DESC)
                   AS place,
               dense_rank() OVER (PARTITION BY user_id ORDER BY edge) AS snapshot,
               {revised} AS revision
        FROM (SELECT * FROM {events}
              WHERE event_type = {text(PURCHASE)} AND {users.condition}) AS part
        ASOF JOIN edges ON part.event_timestamp < edges.edge
        """
    )
