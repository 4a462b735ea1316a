"""A Feast repository of one view, for ``benchmarks.features``: N users with nine features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROJECT, VIEW = "bench", "user_activity"
FEATURES = {
    **{f"amount_{place}": "Float32" for place in range(4)},
    **{f"count_{place}": "Int64" for place in range(3)},
    **{f"band_{place}": "String" for place in range(2)},
}
START, END = "2017-01-01T00:00:00", "2018-01-01T00:00:00"
_FIRST_S, _LAST_S = 1_490_000_000, 1_510_000_000
"""Epoch seconds between ``START`` and ``END``."""
_GROUP_ROWS = 1 << 18

_DEFINITIONS = """\
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
view = FeatureView(
    name="{view}",
    entities=[user],
    ttl=timedelta(0),
    source=FileSource(path="{source}", timestamp_field="event_timestamp"),
    schema=[{fields}],
)
"""
_SETTINGS = """\
project: {project}
provider: local
registry: {folder}/registry.db
entity_key_serialization_version: 3
offline_store:
  type: duckdb
online_store:
  type: redis
  connection_string: 127.0.0.1:{port}
  skip_dedup: {skip_check}
materialization:
  pull_latest_features: true
  online_write_batch_size: 10000
"""
_ENGINE = """\
batch_engine:
  type: feature_repo.jobs.redis_engine.RedisComputeEngine
"""


@dataclass(frozen=True)
class FeatureShop:
    """Where the repository and its data lie."""

    folder: Path
    users: int

    @property
    def source(self) -> Path:
        """The view's Parquet file."""
        return self.folder / "user_activity.parquet"

    @property
    def repository(self) -> Path:
        """What ``feast -c`` takes."""
        return self.folder / "repository"

    def make(self) -> None:
        """Write the data, unless it is there, and the definitions."""
        self.repository.mkdir(parents=True, exist_ok=True)
        fields = ", ".join(f'Field(name="{name}", dtype={kind})' for name, kind in FEATURES.items())
        text = _DEFINITIONS.format(view=VIEW, source=self.source, fields=fields)
        (self.repository / "benchmark_view.py").write_text(text, encoding="utf-8")
        if not self.source.exists():
            self._write_source()

    def settings(self, port: int, *, ours: bool, skip_check: bool = False) -> Path:
        """Write a ``feature_store.yaml`` for a server; with batches that suit Feast's engine."""
        text = _SETTINGS.format(
            project=PROJECT, folder=self.folder, port=port, skip_check=str(skip_check).lower()
        )
        path = self.repository / "feature_store.yaml"
        path.write_text(text + (_ENGINE if ours else ""), encoding="utf-8")
        return path

    def _write_source(self) -> None:
        rng = np.random.default_rng(0)
        temporary = self.source.with_suffix(".partial")
        with pq.ParquetWriter(temporary, made_rows(0, 0, rng).schema) as writer:
            for start in range(0, self.users, _GROUP_ROWS):
                writer.write_table(made_rows(start, min(start + _GROUP_ROWS, self.users), rng))
        temporary.rename(self.source)


def made_rows(start: int, stop: int, rng: np.random.Generator) -> pa.Table:
    """One row for each user from ``start`` to ``stop``; a tenth of ``amount_0`` is missing."""
    count = stop - start
    seconds = rng.integers(_FIRST_S, _LAST_S, count)
    columns = {
        "user_id": pa.array(np.arange(start, stop)),
        "event_timestamp": pa.array(seconds * 1_000_000, pa.timestamp("us", tz="UTC")),
    }
    for name, kind in FEATURES.items():
        if kind == "Float32":
            missing = rng.random(count) < 0.1 if name == "amount_0" else None
            columns[name] = pa.array(rng.random(count, dtype=np.float32), mask=missing)
        elif kind == "Int64":
            columns[name] = pa.array(rng.integers(0, 1_000, count))
        else:
            columns[name] = pa.array(rng.integers(0, 100, count)).cast(pa.string())
    return pa.table(columns)
