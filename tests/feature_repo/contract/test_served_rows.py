from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.served_rows import read_served_rows, served_columns, write_served_rows

NOW = datetime(2017, 11, 27, tzinfo=UTC)
VISITS = Feature("visits", Entity.USER, "v", "Int64", Encoding.NONE)
ITEMS = Feature("items", Entity.USER, "v", "Array(String)", Encoding.NONE)
TITLE = Feature("title", Entity.ITEM, "w", "String", Encoding.NONE)
SCHEMA = Schema("s", (VISITS, ITEMS, TITLE))


def rows() -> pa.Table:
    columns = {
        "items": [["a"], None],  # not in the schema's order
        "visits": [1, None],
        "user_id": [7, 8],
        "event_timestamp": pa.array([NOW, NOW], pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns)


def test_the_columns_are_the_user_features_under_their_types() -> None:
    columns = served_columns(SCHEMA, IdType.STRING)

    assert columns.names == ["user_id", "event_timestamp", "visits", "items"]
    assert columns.types[0] == pa.string()
    assert columns.types[2:] == [pa.int64(), pa.list_(pa.string())]


def test_rows_come_back_as_they_were_served(tmp_path: Path) -> None:
    write_served_rows(tmp_path / "rows.parquet", rows(), SCHEMA, IdType.INT64)

    found = read_served_rows(tmp_path / "rows.parquet", SCHEMA, IdType.INT64)

    assert found.to_pylist() == rows().select(found.column_names).to_pylist()


def test_rows_of_another_schema_are_refused(tmp_path: Path) -> None:
    write_served_rows(tmp_path / "rows.parquet", rows(), SCHEMA, IdType.INT64)

    with pytest.raises(ArtifactError, match="with the service that they were served with"):
        read_served_rows(tmp_path / "rows.parquet", Schema("s", (VISITS,)), IdType.INT64)


def test_a_file_of_another_program_needs_the_columns_alone(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "rows.parquet")

    found = read_served_rows(tmp_path / "rows.parquet", SCHEMA, IdType.INT64)

    assert found.schema.equals(served_columns(SCHEMA, IdType.INT64))
    pq.write_table(rows().drop_columns(["user_id"]), tmp_path / "rows.parquet")
    with pytest.raises(ArtifactError, match=r"lacks \['user_id'\]"):
        read_served_rows(tmp_path / "rows.parquet", SCHEMA, IdType.INT64)


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    texts = rows().set_column(1, "visits", pa.array(["one", "two"]))
    pq.write_table(texts, tmp_path / "rows.parquet")

    with pytest.raises(ArtifactError, match="does not hold the types of s"):
        read_served_rows(tmp_path / "rows.parquet", SCHEMA, IdType.INT64)
