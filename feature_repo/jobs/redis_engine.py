"""The Feast engine behind ``feast materialize``: whole columns into Redis.

``batch_engine`` in ``feature_store.yaml`` names it. It writes byte for byte what Feast's local
engine and Redis store write. Where that is not certain, those do the work: for another online
store, a feature type without an encoding here, a view with transformations or aggregations.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView, Field
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.backends.pandas_backend import PandasBackend
from feast.infra.compute_engines.dag.context import ColumnInfo
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _validate_vector_field_lengths
from tqdm import tqdm

from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.hash_commands import KEY_TYPES, HashCommands
from feature_repo.contract.journal import VIEWS
from feature_repo.contract.value_columns import can_encode
from feature_repo.jobs.online_writer import Pipes, Writer, Written

TYPE = "feature_repo.jobs.redis_engine.RedisComputeEngine"
PULL_ROWS = 16_384
"""Rows that are taken from the offline store at a time."""
BEYOND = (
    *("stream_source", "source_views", "feature_transformation", "aggregations"),
    *("filter", "offline", "enable_validation"),
)
"""Attributes of a view that ask for more than copying its source's newest rows."""
SAY_EVERY_S = 10.0
"""Between two lines of the log, where there is no terminal for a progress bar."""

log = logging.getLogger(__name__)


class RedisComputeEngineConfig(LocalComputeEngineConfig):
    """Settings: none of its own; those of the online store count."""

    type: Literal["feature_repo.jobs.redis_engine.RedisComputeEngine"] = TYPE  # type: ignore[assignment]


class RedisComputeEngine(LocalComputeEngine):
    """Feast's local engine, with another way of materialising a view into Redis."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Feast shows every deprecation once, those among its own dependencies too.
        warnings.filterwarnings("ignore", r"fetch_(arrow_table|record_batch)\(\) is deprecated")
        if log.getEffectiveLevel() == logging.WARNING:
            log.setLevel(logging.INFO)  # the Feast CLI's default hides how far it is

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **settings: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        reason = self._unsuited(view)
        if reason is None:
            columns = LocalFeatureBuilder(registry, task, PandasBackend()).get_column_info(view)
            pulled = self._pull(task, columns)
            reason = _unencodable(pulled.schema, view, columns.timestamp_column)
            if reason is None:
                self._write(view, columns.timestamp_column, pulled)
                job_id = f"{view.name}-{task.start_time}-{task.end_time}"
                return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)
        log.info("%s: written by Feast's own engine, because %s.", view.name, reason)
        return super()._materialize_one(registry, task, **settings)

    def _unsuited(self, view: Any) -> str | None:
        """Why a view is left to Feast's own engine; None where it is not."""
        if not isinstance(self.online_store, RedisOnlineStore):
            return "the online store is not Redis"
        if self.repo_config.entity_key_serialization_version != 3:
            return "its keys are not of serialisation version 3"
        if type(view) is not FeatureView or view.batch_source is None:
            return "it is not a plain view of a batch source"
        if view.entities == [DUMMY_ENTITY_NAME]:
            return "it has no entity"
        return next((f"it has {name}" for name in BEYOND if getattr(view, name, None)), None)

    def _pull(self, task: MaterializationTask, columns: ColumnInfo) -> Pulled:
        """Ask the offline store for the newest row of each entity."""
        source = task.feature_view.batch_source
        assert source is not None
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=columns.join_keys,
            feature_name_columns=columns.feature_cols,
            timestamp_field=columns.ts_col,
            created_timestamp_column=columns.created_ts_col,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        return Pulled(job, columns.field_mapping or {})

    def _write(self, view: FeatureView, timestamp: str, pulled: Pulled) -> None:
        assert isinstance(self.online_store, RedisOnlineStore)
        store, registry = self.repo_config.online_store, self.repo_config.registry
        commands = HashCommands(
            project=self.repo_config.project,
            view=compute_versioned_name(view, registry.enable_online_feature_view_versioning),
            join_keys=_types(view.entity_columns),
            features=_types(view.features),
            timestamp=timestamp,
            expire_s=store.key_ttl_seconds or None,
        )
        client = self.online_store._get_client(store)
        pipes = Pipes(client)
        try:
            writer = Writer(pipes, commands, check_times=not store.skip_dedup)
            _watch(view.name, writer.write(_checked(pulled.batches(), view)), pulled)
        finally:
            pipes.close()
        if view.name in VIEWS:
            EventStream(client, self.repo_config.project).materialised()


class Pulled:
    """What the offline store gives, a batch at a time where it can, under Feast's names."""

    def __init__(self, job: RetrievalJob, names: Mapping[str, str]) -> None:
        self._names = names
        self._table = job.table if isinstance(job, IbisRetrievalJob) else job.to_arrow()

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        found = self._table.schema
        schema = found if isinstance(found, pa.Schema) else found().to_pyarrow()
        return pa.schema([field.with_name(self._name(field.name)) for field in schema])

    def count(self) -> int:
        """How many rows there are."""
        if isinstance(self._table, pa.Table):
            return int(self._table.num_rows)
        return int(self._table.count().execute())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows."""
        if isinstance(self._table, pa.Table):
            batches = self._table.to_batches(max_chunksize=PULL_ROWS)
        else:
            batches = self._table.to_pyarrow_batches(chunk_size=PULL_ROWS)
        for batch in batches:
            yield batch.rename_columns([self._name(name) for name in batch.schema.names])

    def _name(self, column: str) -> str:
        return self._names.get(column, column)


def _types(columns: Sequence[Field]) -> dict[str, str]:
    return {column.name: str(column.dtype) for column in columns}


def _unencodable(schema: pa.Schema, view: FeatureView, timestamp: str) -> str | None:
    """Why a view's columns cannot be written from here; None where they can."""
    for name, dtype in _types(view.entity_columns).items():
        if dtype not in KEY_TYPES or not can_encode(dtype, schema.field(name).type):
            return f"its key {name} is {dtype} of {schema.field(name).type} columns"
    for name, dtype in _types(view.features).items():
        if not can_encode(dtype, schema.field(name).type):
            return f"its feature {name} is {dtype} of a column of {schema.field(name).type}"
    if not pa.types.is_timestamp(schema.field(timestamp).type):
        return f"its times are of type {schema.field(timestamp).type}"
    return None


def _checked(batches: Iterator[pa.RecordBatch], view: FeatureView) -> Iterator[pa.RecordBatch]:
    """Feast's own check of vector features."""
    for batch in batches:
        _validate_vector_field_lengths(batch, view)
        yield batch


def _watch(view: str, progress: Iterator[Written], pulled: Pulled) -> None:
    """Show how far it is: a bar on a terminal, otherwise a line now and then."""
    terminal = sys.stderr.isatty()
    started = said = time.monotonic()
    written = Written()
    with tqdm(
        total=pulled.count() if terminal else None, desc=view, unit="rows", disable=not terminal
    ) as bar:
        for written in progress:
            bar.update(written.rows - bar.n)
            if not terminal and time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                log.info("%s: %d rows, %.0f s.", view, written.rows, said - started)
    seconds = time.monotonic() - started
    log.info(
        "%s: %d rows in %.1f s, %.0f a second; %d of them left alone, as the store has them as "
        "new or newer.",
        *(view, written.rows, seconds, written.rows / max(seconds, 1e-9), written.stale),
    )
