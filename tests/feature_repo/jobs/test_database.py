from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.jobs.config import JobConfig
from feature_repo.jobs.database import connect, name, open_writer, row, text, write_parquet
from feature_repo.jobs.user_history import TIMESTAMP


def test_a_connection_is_in_utc_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with connect(JobConfig(memory_gb=0.5, threads=1), tmp_path) as connection:
        assert row(connection, "SELECT current_setting('TimeZone')") == ("UTC",)
        assert row(connection, "SELECT current_setting('threads')") == (1,)
        assert list(tmp_path.iterdir())

    assert list(tmp_path.iterdir()) == []


def test_quotes_in_values_and_names_are_kept(tmp_path: Path) -> None:
    with connect(JobConfig(), tmp_path) as connection:
        query = f"SELECT {text('o' + chr(39) + 'clock')} AS {name('the ' + chr(34) + 'hour')}"
        assert connection.sql(query).columns == ['the "hour']
        assert row(connection, query) == ("o'clock",)


def test_times_are_written_in_microseconds_of_utc(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with connect(JobConfig(), tmp_path) as connection:
        write_parquet(connection, "SELECT TIMESTAMPTZ '2020-01-01 01:00:00+01' AS at", target)

    table = pq.read_table(target)
    assert table.schema.field("at").type == TIMESTAMP
    assert table["at"][0].as_py().isoformat() == "2020-01-01T00:00:00+00:00"


def test_a_query_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with connect(JobConfig(), tmp_path) as connection:
        write_parquet(connection, "SELECT 1 AS n", target)
        with pytest.raises(duckdb.Error):
            write_parquet(connection, "SELECT error('no') AS n FROM range(9)", target)

    assert pq.read_table(target)["n"].to_pylist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def interrupted_write(target: Path) -> None:
    schema = pa.schema({"n": pa.int64()})
    with ExitStack() as stack:
        writer = open_writer(stack, target, schema)
        writer.write_table(pa.table({"n": [1]}, schema=schema))
        raise KeyboardInterrupt


def test_a_writer_that_is_interrupted_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(tmp_path / "out.parquet")

    assert list(tmp_path.iterdir()) == []
