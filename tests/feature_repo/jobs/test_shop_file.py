from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.errors import BadInput
from feature_repo.jobs.shop_file import ShopFile
from tests.feature_repo.jobs.shops import database


def csv(folder: Path, content: str) -> str:
    (folder / "shop.csv").write_text(content, encoding="utf-8")
    return str(folder / "shop.csv")


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        (["1", "20", "-3"], True),
        (["1.0", "2.00"], True),
        (["007", "8"], False),
        (["1.5"], False),
        (["1", "x"], False),
        (["12345678901234567890"], False),
    ],
)
def test_whole_numbers_in_a_csv(tmp_path: Path, values: list[str], whole: bool) -> None:
    with database() as connection:
        file = ShopFile.open(connection, "data.events", csv(tmp_path, "id\n" + "\n".join(values)))

        assert file.holds_whole_numbers(connection, "id") is whole


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        (pa.array([1, 2], pa.int32()), True),
        (pa.array([1.0, 2.0, None]), True),
        (pa.array([1.5]), False),
        (pa.array(["1"]), False),
    ],
)
def test_whole_numbers_in_a_parquet_file(tmp_path: Path, values: Any, whole: bool) -> None:
    pq.write_table(pa.table({"id": values}), tmp_path / "shop.parquet")

    with database() as connection:
        file = ShopFile.open(connection, "data.events", str(tmp_path / "shop.parquet"))
        assert file.holds_whole_numbers(connection, "id") is whole


def test_empty_text_is_no_value(tmp_path: Path) -> None:
    with database() as connection:
        file = ShopFile.open(connection, "data.events", csv(tmp_path, "a,b\n1, \n2,3\n"))
        value = file.cast(connection, "b", "DOUBLE")

        found = connection.execute(f"SELECT {value} FROM {file.table}").fetchall()
    assert found == [(None,), (3.0,)]


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    with database() as connection:
        file = ShopFile.open(connection, "data.items", csv(tmp_path, "a\n1\nx\ny\n"))

        with pytest.raises(BadInput, match=r"shop\.csv, column 'a', row 2: got 'x', expected a D"):
            file.cast(connection, "a", "DOUBLE")


def test_a_required_column_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with database() as connection:
        file = ShopFile.open(connection, "data.events", csv(tmp_path, "a,b\n1,2\n"))

    assert file.find("a", None) == "a"
    assert file.find("title", None) is None
    assert file.find("title", "b") == "b"
    with pytest.raises(BadInput, match=r"no column 'user_id'; it has a, b\. Set data\.columns\.us"):
        file.find("user_id", None, required=True)


def test_several_files_are_one(tmp_path: Path) -> None:
    for year in (2020, 2021):
        pq.write_table(pa.table({"id": [year]}), tmp_path / f"orders_{year}.parquet")

    with database() as connection:
        file = ShopFile.open(connection, "data.events", str(tmp_path / "orders_*.parquet"))
        found = connection.execute(f"SELECT id FROM {file.table} ORDER BY id").fetchall()
    assert found == [(2020,), (2021,)]
