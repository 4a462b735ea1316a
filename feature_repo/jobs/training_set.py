"""Job ``training-set``: Feast's point-in-time rows of a service, with their targets.

A row is asked for one microsecond before its time, for Feast joins on ``<=``: neither a basket
nor anything later reaches its own row.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from feature_repo.contract.artifacts import atomic_folder, sha256_file, write_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import BadInput
from feature_repo.contract.events import TARGET
from feature_repo.contract.schema import Entity, Schema
from feature_repo.jobs import feast_repo, label_window
from feature_repo.jobs.canonical import PURCHASE
from feature_repo.jobs.config import SetKind, TrainingSetConfig
from feature_repo.jobs.database import connect, parquet, row, text, write_parquet
from feature_repo.jobs.label_window import LabelWindow
from feature_repo.jobs.stage import Stage
from feature_repo.jobs.user_history import TIMESTAMP

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger(__name__)

BEFORE = timedelta(microseconds=1)
MIXED_ROW_GROUP = 10_240
FILES = ("schema.json", "users.parquet", "items.parquet", "set.json")


@dataclass(frozen=True)
class Request:
    """A training set that was asked for."""

    dataset: Dataset
    service: str
    kind: SetKind
    cutoff_name: str
    cutoff: datetime
    until: datetime | None

    @staticmethod
    def of(config: TrainingSetConfig, dataset: Dataset) -> Request:
        """Resolve a config's times.

        Raises:
            BadInput: ``until`` is not after the cut-off.
        """
        cutoff = dataset.edge(config.cutoff)
        until = dataset.edge(config.until) if config.until is not None else None
        if until is not None and until <= cutoff:
            raise BadInput(f"until={config.until} must be later than cutoff={config.cutoff}.")
        return Request(dataset, config.service, config.kind, config.cutoff, cutoff, until)

    @property
    def folder(self) -> Path:
        """``sets/<service>-<kind>-<cutoff>``."""
        name = self.cutoff_name
        if name not in self.dataset.named_edges:
            name = self.cutoff.strftime("%Y%m%dT%H%M%SZ")
        return self.dataset.sets / f"{self.service}-{self.kind.value}-{name}"


def make_training_set(config: TrainingSetConfig) -> Path:
    """Make a training set, or find it unchanged; return its folder.

    Raises:
        BadInput: no such service, or no purchase before the cut-off.
        ArtifactError: an earlier stage was not run.
    """
    dataset = config.data.dataset()
    request = Request.of(config, dataset)
    store = feast_repo.open_store(dataset)
    schema = feast_repo.schema_of(store, feast_repo.find_service(store, request.service))
    stage = _stage(request, schema)
    if not config.force and stage.is_current():
        return request.folder
    with (
        connect(config, dataset.root) as connection,
        feast_repo.duckdb_backend(config, dataset.root),
        atomic_folder(request.folder) as folder,
    ):
        job = _Job(connection, store, schema, request, config.chunk_rows)
        counts = {"users": job.write_users(folder, config.force), "items": job.write_items(folder)}
        schema.save(folder / "schema.json")
        _write_about(request, schema, folder, counts)
    stage.done()
    log.info("%s: %d user rows, %d items.", request.folder, counts["users"], counts["items"])
    return request.folder


def _stage(request: Request, schema: Schema) -> Stage:
    dataset = request.dataset
    views = {feature.view for feature in schema.features}
    inputs = [dataset.features / f"{view}.parquet" for view in sorted(views)]
    settings = {
        "schema": schema.to_json(),
        "kind": request.kind.value,
        "cutoff": str(request.cutoff),
        "until": str(request.until),
    }
    return Stage(
        name=request.folder.name,
        folder=dataset.sets,
        inputs=[dataset.canonical / "events.parquet", *inputs],
        settings=settings,
        outputs=[request.folder / name for name in FILES],
        code=[feast_repo, label_window, sys.modules[__name__]],
    )


@dataclass(frozen=True)
class _Job:
    """The join of one request."""

    connection: duckdb.DuckDBPyConnection
    store: FeatureStore
    schema: Schema
    request: Request
    chunk_rows: int

    def write_users(self, folder: Path, force: bool) -> int:
        """Write ``users.parquet``; return its rows."""
        target = folder / "users.parquet"
        if self.request.kind is SetKind.users:
            return self._join(_users(self.request, self._labels()), Entity.USER, target)
        earlier = None if force else self._earlier()
        with tempfile.TemporaryDirectory(prefix=".join.", dir=folder.parent) as scratch:
            joined = Path(scratch) / "joined.parquet"
            since = earlier.cutoff if earlier is not None else None
            self._join(_sessions(self.request, since), Entity.USER, joined)
            parts = [joined, *([earlier.folder / target.name] if earlier is not None else [])]
            return _mix(self.connection, parts, target)

    def write_items(self, folder: Path) -> int:
        """Write ``items.parquet``; return its rows."""
        request = self.request
        query = (
            f"SELECT DISTINCT item_id, {_query_time(request)} AS event_timestamp "
            f"FROM {_events(request)} WHERE {_before(request.cutoff)} ORDER BY item_id"
        )
        return self._join(query, Entity.ITEM, folder / "items.parquet")

    def _labels(self) -> LabelWindow | None:
        request = self.request
        if request.until is None:
            return None
        events = request.dataset.canonical / "events.parquet"
        return LabelWindow.of(self.connection, events, request.cutoff, request.until)

    def _earlier(self) -> Request | None:
        """The latest unchanged set of the same sessions up to an earlier edge, if there is one.

        A session's row does not depend on the cut-off, so that set's rows are taken as they are.
        """
        request = self.request
        for name, edge in reversed(request.dataset.named_edges.items()):
            earlier = replace(request, cutoff_name=name, cutoff=edge)
            if edge < request.cutoff and _stage(earlier, self.schema).is_current():
                return earlier
        return None

    def _join(self, query: str, entity: Entity, target: Path) -> int:
        """Join the entity rows of a query, sorted by id and time, in chunks; return their number.

        Raises:
            BadInput: there are none.
        """
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE entity_rows AS {query}")
        total = int(row(self.connection, "SELECT count(*) FROM entity_rows")[0])
        if total == 0:
            raise BadInput("No purchase lies before the cut-off; choose a later one.")
        references = feast_repo.references(self.schema, entity)
        writer: pq.ParquetWriter | None = None
        try:
            for chunk in self._chunks(total, entity):
                joined = _with_features(self.store, chunk, entity, references)
                writer = writer or pq.ParquetWriter(target, joined.schema, compression="zstd")
                writer.write_table(joined)
        finally:
            if writer is not None:
                writer.close()
        return total

    def _chunks(self, total: int, entity: Entity) -> Iterator[pa.Table]:
        reader = self.connection.sql("FROM entity_rows").to_arrow_reader(self.chunk_rows)
        with tqdm(total=total, desc=f"{entity.value} rows", unit="row", disable=None) as bar:
            for batch in reader:
                yield pa.Table.from_batches([batch])
                bar.update(len(batch))


def _mix(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], target: Path) -> int:
    """Write the rows of all parts in an order that mixes users and times; return their number.

    Row groups are what a trainer reads at a time, so each must be a fair sample.
    """
    listed = "[" + ", ".join(text(part) for part in parts) + "]"
    order = "hash(user_id, event_timestamp), user_id, event_timestamp"
    write_parquet(
        connection,
        f"FROM read_parquet({listed}) ORDER BY {order}",
        target,
        row_group=MIXED_ROW_GROUP,
    )
    return pq.ParquetFile(target).metadata.num_rows  # type: ignore[no-any-return]


def _events(request: Request) -> str:
    return parquet(request.dataset.canonical / "events.parquet")


def _query_time(request: Request) -> str:
    return f"{text(request.cutoff - BEFORE)}::TIMESTAMPTZ"


def _before(time: datetime) -> str:
    return f"event_type = {text(PURCHASE)} AND event_timestamp < {text(time)}"


def _sessions(request: Request, since: datetime | None) -> str:
    """One row a basket before the cut-off (and not before ``since``)."""
    later = f"AND event_timestamp >= {text(since)}" if since is not None else ""
    return f"""
        SELECT user_id, event_timestamp - INTERVAL 1 MICROSECOND AS event_timestamp,
               list(item_id ORDER BY item_id) AS {TARGET}
        FROM {_events(request)} WHERE {_before(request.cutoff)} {later}
        GROUP BY ALL ORDER BY user_id, event_timestamp
    """


def _users(request: Request, labels: LabelWindow | None) -> str:
    """One row a user with a purchase before the cut-off."""
    events = _events(request)
    item_type = f"(SELECT any_value([item_id]) FROM {events} WHERE false)"
    filled, joined = f"coalesce(NULL, {item_type}) AS {TARGET}", ""
    if labels is not None:
        filled = ", ".join(f"coalesce({name}, []) AS {name}" for name in labels.columns)
        joined = f"LEFT JOIN ({labels.query}) USING (user_id)"
    return f"""
        SELECT user_id, {_query_time(request)} AS event_timestamp, {filled}
        FROM (SELECT DISTINCT user_id FROM {events} WHERE {_before(request.cutoff)}) {joined}
        ORDER BY user_id
    """


def _with_features(
    store: FeatureStore, chunk: pa.Table, entity: Entity, references: list[str]
) -> pa.Table:
    """The chunk's rows with their features after the entity's id and time, targets last."""
    keys = [f"{entity.value}_id", "event_timestamp"]
    frame = chunk.select(keys).to_pandas()
    joined = store.get_historical_features(entity_df=frame, features=references).to_arrow()
    joined = joined.sort_by([(key, "ascending") for key in keys])
    names = [reference.split(":")[1] for reference in references]
    found = joined.select([*keys, *names])
    times = found.column("event_timestamp").cast(TIMESTAMP)
    if not found.column(keys[0]).equals(chunk.column(keys[0])):
        raise BadInput("Feast returned other rows than it was asked for; please report this.")
    found = found.set_column(1, "event_timestamp", times)
    for name in chunk.column_names[len(keys) :]:
        found = found.append_column(name, chunk.column(name))
    return found


def _write_about(request: Request, schema: Schema, folder: Path, counts: dict[str, int]) -> None:
    about = {
        "format": 1,
        "dataset": request.dataset.name,
        "service": request.service,
        "kind": request.kind.value,
        "cutoff": request.cutoff.isoformat(),
        "until": request.until.isoformat() if request.until else None,
        "fingerprint": schema.fingerprint,
        "counts": counts,
        "sha256": {name: sha256_file(folder / name) for name in FILES if name != "set.json"},
    }
    write_json(folder / "set.json", about)
