"""Job ``compact``: what shoppers did, from the feedback log into the canonical events, once each.

A compaction cuts a segment off every log, and takes all segments that none before it took:

1. ``canonical/feedback/000001.plan.json`` names them, and is never changed;
2. ``canonical/feedback/000001.parquet`` holds their events, without those whose id an earlier
   part has;
3. ``canonical/events.parquet`` is made anew of ``ingested.parquet`` there, which are the shop's own
   events, and of all parts;
4. the online store is told, so that it knows which events a materialised row contains.

Each step is done again where the one before it is newer, and gives the same when it is: whenever
the job is killed, the next run goes on. Segments are left where they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import atomic_path, read_json, write_json
from feature_repo.contract.dataset import IdType, parse_time
from feature_repo.contract.embedded import connect as connect_store
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.event_log import (
    Line,
    events_of,
    log_id,
    rotate,
    segment_numbers,
    segment_path,
)
from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.events import EventType
from feature_repo.contract.purchases import is_ahead
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs.canonical import COMPACTION, ITEMS, PURCHASE, USERS, Staged, finish
from feature_repo.jobs.config import CompactConfig, DataConfig, JobConfig
from feature_repo.jobs.database import connect, open_writer, parquet, row, text, write_parquet
from feature_repo.jobs.ingest import stage_of as ingest_stage
from feature_repo.jobs.stage import Stage

log = logging.getLogger(__name__)

TIMESTAMP = pa.timestamp("us", tz="UTC")
READ_LINES = 50_000
"""Lines that are held at a time."""


@dataclass(frozen=True)
class Plan:
    """What one compaction takes."""

    number: int
    files: tuple[str, ...] = ()
    """Segments, absolute."""
    logs: Mapping[str, int] = field(default_factory=dict)
    """Log -> the last segment that this compaction or an earlier one took."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"number": self.number, "files": list(self.files), "logs": dict(self.logs)}


@dataclass(frozen=True)
class Folder:
    """``canonical/feedback`` of a data set."""

    canonical: Path

    @property
    def path(self) -> Path:
        """The folder."""
        return self.canonical / "feedback"

    def plans(self) -> list[int]:
        """Numbers of the compactions that were begun, rising."""
        return sorted(int(found.name.split(".")[0]) for found in self.path.glob("*.plan.json"))

    def plan_path(self, number: int) -> Path:
        """Where a compaction says what it takes."""
        return self.path / f"{number:06d}.plan.json"

    def part(self, number: int) -> Path:
        """Where a compaction's events lie."""
        return self.path / f"{number:06d}.parquet"

    def plan(self, number: int) -> Plan:
        """What a compaction takes; nothing, for the one before the first."""
        if not number:
            return Plan(0)
        found = read_json(self.plan_path(number))
        return Plan(found["number"], tuple(found["files"]), found["logs"])

    def parts(self) -> list[Path]:
        """The events of all compactions, oldest first."""
        return [self.part(number) for number in self.plans() if self.part(number).exists()]

    @property
    def ingested(self) -> Path:
        """The shop's own events."""
        return self.path / "ingested.parquet"


def compact(config: CompactConfig, now: datetime, stream: EventStream | None = None) -> int:
    """Take the events that no compaction took before; return how many.

    Raises:
        ArtifactError: the data set was not ingested, or a segment is missing.
        StoreUnavailable: the online store does not answer; nothing was taken.
    """
    data = config.data
    told = stream or EventStream(connect_store(timeout_s=30.0), data.name)
    folder = Folder(data.folder / "canonical")
    if not (folder.canonical / "events.parquet").exists():
        data.dataset()  # says what is missing
    plan = _unfinished(folder) or _next(folder, config, told)
    if plan is None:
        log.info("%s: no event came in since the last compaction.", data.name)
    elif not folder.part(plan.number).exists():
        _write_part(config, folder, plan)
    merge(config, now)
    done = told.marks().done
    for number in folder.plans():
        if number not in done:
            told.finish_compaction(number, folder.plan(number).logs)
    count = 0 if plan is None else pq.read_metadata(folder.part(plan.number)).num_rows
    if plan is not None:
        log.info("%s: compaction %d took %d events.", data.name, plan.number, count)
    return count


def _unfinished(folder: Folder) -> Plan | None:
    """The last compaction, where it did not come to its events."""
    last = max(folder.plans(), default=0)
    return folder.plan(last) if last and not folder.part(last).exists() else None


def _next(folder: Folder, config: CompactConfig, told: EventStream) -> Plan | None:
    """Cut segments off and plan to take them; None where there is nothing to take."""
    last = max(folder.plans(), default=0)
    logs, files = dict(folder.plan(last).logs), []
    if not any(_has_more(path, logs) for path in config.logs):
        return None
    told.begin_compaction(last + 1)  # before the cut: what comes after it is in none yet
    for path in config.logs:
        rotate(path)
        numbers = segment_numbers(path)
        if not numbers:
            continue
        name = log_id(path)
        taken = logs.get(name, 0)
        files += [str(segment_path(path, number)) for number in numbers if number > taken]
        logs[name] = max(taken, numbers[-1])
    if not files:
        return None
    plan = Plan(last + 1, tuple(files), logs)
    write_json(folder.plan_path(plan.number), plan.to_json())
    return plan


def _has_more(path: Path, logs: Mapping[str, int]) -> bool:
    """Whether a log has lines that no compaction took."""
    newest = max(segment_numbers(path), default=0)
    if newest and newest > logs.get(log_id(path), 0):
        return True
    return path.exists() and path.stat().st_size > 0


def _write_part(config: CompactConfig, folder: Folder, plan: Plan) -> None:
    """The events of a plan's segments, each id once, and none that an earlier part has."""
    users, items = _id_types(folder.canonical)
    schema = part_schema(users, items)
    with connect(config, config.data.folder) as connection:
        staged = folder.path / f".{plan.number:06d}.lines.parquet"
        try:
            with ExitStack() as stack:
                write = open_writer(stack, staged, schema)
                for lines in _pages(plan.files):
                    write.write_table(_table(lines, schema))
            earlier = [part for part in folder.parts() if part != folder.part(plan.number)]
            known = f"event_id NOT IN (SELECT event_id FROM {_all(earlier)})" if earlier else "true"
            query = (
                f"SELECT * EXCLUDE file_row_number FROM read_parquet({text(staged)}, "
                f"file_row_number = true) WHERE {known} "
                "QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY file_row_number) = 1 "
                "ORDER BY file_row_number"
            )
            write_parquet(connection, query, folder.part(plan.number))
        finally:
            staged.unlink(missing_ok=True)


def part_schema(user_id: IdType, item_id: IdType) -> pa.Schema:
    """The columns of a part."""
    return pa.schema(
        {
            "event_id": pa.string(),
            "user_id": id_arrow_type(user_id),
            "item_id": id_arrow_type(item_id),
            "event_type": pa.string(),
            "event_timestamp": TIMESTAMP,
            "quantity": pa.int64(),
            "price": pa.float64(),
            "session_id": pa.string(),
            "position": pa.int64(),
            "recommendation_id": pa.string(),
            "received_at": TIMESTAMP,
        }
    )


def _pages(files: Sequence[str]) -> Iterator[list[Line]]:
    """The lines of segments, some at a time."""
    for name in files:
        path = Path(name)
        if not path.exists():
            raise ArtifactError(
                f"{path} is planned to be compacted and missing. Put it back; segments of a "
                "feedback log are removed only after a compaction took them."
            )
        with path.open("rb") as file:
            while data := file.readlines(READ_LINES * 200):
                yield list(events_of(b"".join(data)))


def _table(lines: Sequence[Line], schema: pa.Schema) -> pa.Table:
    """Lines as a table; those that no server of this shop wrote are left out."""
    python = {pa.int64(): int, pa.string(): str}
    user, item = (python[schema.field(name).type] for name in ("user_id", "item_id"))
    kinds = {kind.value for kind in EventType}
    kept = [
        {**line, "event_timestamp": parse_time(line["event_timestamp"])}
        for line in lines
        if type(line.get("user_id")) is user
        and type(line.get("item_id")) is item
        and line.get("event_type") in kinds
        and not is_ahead(line)
    ]
    for line in kept:
        received = line.get("received_at")
        line["received_at"] = parse_time(received) if received else None
    columns = {field.name: [line.get(field.name) for line in kept] for field in schema}
    return pa.table(columns, schema=schema)


def merge(config: JobConfig, now: datetime) -> None:
    """Make the canonical events of the shop's own and of all compactions, unless they are made.

    Raises:
        BadInput: with them a window of time holds no purchase.
    """
    data, folder = config.data, Folder(config.data.folder / "canonical")
    last = max((number for number in folder.plans() if folder.part(number).exists()), default=0)
    if not last or (_merged(folder) == last and (data.folder / "dataset.json").exists()):
        return
    _keep_ingested(folder)
    ingested = _current_ingest(config)
    counts = _counts(data)
    users, items = _id_types(folder.canonical)
    with connect(config, data.folder) as connection:
        _stage_tables(connection, folder)
        counts["feedback"] = row(connection, "SELECT count(*) FROM feedback")[0]
        origin = str(folder.path)
        finish(
            connection,
            replace(data, max_users=None),
            Staged(users, items, counts, origin),
            now,
        )
    if ingested is not None:
        ingested.done()  # so that the ingest need not be done again
    write_json(folder.path / "merged.json", {"number": last, "events": _size(folder)})


def _current_ingest(config: JobConfig) -> Stage | None:
    """The ingest of this data set, where its files are here and it is not to be done again."""
    try:
        stage = ingest_stage(config)
        return stage if stage.is_current() else None
    except BadInput:
        return None  # compactions need no raw files


def _merged(folder: Folder) -> int:
    """The last compaction that the canonical events have; 0 after an ingest."""
    record = folder.path / "merged.json"
    found = read_json(record) if record.exists() else {}
    return int(found["number"]) if found.get("events") == _size(folder) else 0


def _size(folder: Folder) -> list[int]:
    """What tells one file of events from another."""
    found = (folder.canonical / "events.parquet").stat()
    return [found.st_size, found.st_mtime_ns]


def _keep_ingested(folder: Folder) -> None:
    """Put the shop's own events aside, where an ingest has made them anew."""
    events = folder.canonical / "events.parquet"
    if COMPACTION in pq.read_schema(events).names:
        return
    with atomic_path(folder.ingested) as temporary:
        temporary.unlink()
        os.link(events, temporary)


def _counts(data: DataConfig) -> dict[str, int]:
    """What was counted when the data set was ingested."""
    try:
        return dict(data.dataset().counts)
    except ArtifactError:
        return {}  # the job was killed after dataset.json was taken away


def _id_types(canonical: Path) -> tuple[IdType, IdType]:
    schema = pq.read_schema(canonical / "events.parquet")
    types = (schema.field(name).type for name in ("user_id", "item_id"))
    user, item = (IdType.INT64 if pa.types.is_integer(t) else IdType.STRING for t in types)
    return user, item


def _all(parts: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(map(text, parts))}], filename = true)"


def _stage_tables(connection: duckdb.DuckDBPyConnection, folder: Folder) -> None:
    """The tables that ``canonical.finish`` reads.

    Users and items that were heard of in feedback alone have a row without attributes.
    """
    ingested = parquet(folder.ingested)
    number = "regexp_extract(filename, '([0-9]+)\\.parquet$', 1)::BIGINT"
    connection.execute(
        f"CREATE TEMP TABLE feedback AS SELECT *, {number} AS {COMPACTION} "
        f"FROM {_all(folder.parts())} "
        f"WHERE event_timestamp >= (SELECT min(event_timestamp) FROM {ingested})"
    )
    position = f"CASE WHEN event_type = {text(EventType.IMPRESSION.value)} THEN position END"
    shown = row(connection, f"SELECT count({position}) FROM feedback")[0]
    logged = f", {position} AS position" if shown else ""
    connection.execute(
        f"CREATE TEMP VIEW raw_events AS SELECT *, NULL::BIGINT AS {COMPACTION} FROM {ingested} "
        "UNION ALL BY NAME SELECT user_id, item_id, event_type, event_timestamp, quantity, price, "
        f"NULL::DOUBLE AS list_price, session_id{logged}, {COMPACTION} FROM feedback"
    )
    _stage_entities(connection, folder, "users", "user_id", USERS, "true")
    bought = f"event_type = {text(PURCHASE)}"
    _stage_entities(connection, folder, "items", "item_id", ITEMS, bought)
    context = parquet(folder.canonical / "item_context.parquet")
    connection.execute(f"CREATE TEMP TABLE raw_context AS FROM {context}")


def _stage_entities(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    table: str,
    key: str,
    columns: Mapping[str, str],
    which: str,
) -> None:
    # A table, for the file that it is read from is written next.
    known = parquet(folder.canonical / f"{table}.parquet")
    missing = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
    connection.execute(
        f"CREATE TEMP TABLE raw_{table} AS SELECT {key}, {', '.join(columns)} FROM {known} "
        f"UNION ALL SELECT {key}, {missing} FROM "
        f"(SELECT DISTINCT {key} FROM feedback WHERE {which} AND {key} NOT IN "
        f"(SELECT {key} FROM {known}))"
    )
