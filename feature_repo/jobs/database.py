"""DuckDB as the jobs use it: in memory, in UTC, with a memory limit, writing whole files only."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import atomic_path
from feature_repo.jobs.config import JobConfig

ROW_GROUP = 122_880


@contextlib.contextmanager
def connect(config: JobConfig, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection that spills into a folder under ``scratch``, removed afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    spill = Path(tempfile.mkdtemp(prefix=".duckdb.", dir=scratch))
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{config.memory_gb}GB'")
        connection.execute(f"SET temp_directory = {text(spill)}")
        connection.execute("SET enable_progress_bar = false")
        if config.threads is not None:
            connection.execute(f"SET threads = {config.threads}")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def text(value: object) -> str:
    """A value as an SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def name(value: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'


def parquet(path: Path) -> str:
    """A Parquet file as an SQL table."""
    return f"read_parquet({text(path)})"


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(query).fetchall()


def row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The one row of a query."""
    return rows(connection, query)[0]


def write_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, target: Path, row_group: int = ROW_GROUP
) -> None:
    """Write a query's rows, in their order, as zstd Parquet, atomically."""
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {row_group}"
    with atomic_path(target) as temporary:
        connection.execute(f"COPY ({query}) TO {text(temporary)} ({options})")


def table(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's rows as an Arrow table."""
    return connection.sql(query).to_arrow_table()


def open_writer(stack: ExitStack, target: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer whose file appears under its name when ``stack`` closes without error."""
    temporary = stack.enter_context(atomic_path(target))
    return stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
