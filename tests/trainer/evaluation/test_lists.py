from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import write_table
from feature_repo.contract.errors import ArtifactError, BadInput
from tests.trainer.evaluation.shop import Event, make_shop, write_lists
from trainer.evaluation.config import Split
from trainer.evaluation.lists import read_lists
from trainer.evaluation.window import Window, load_window

ITEMS = ["bread", "milk", "tea"]  # rows 1, 2, 3
EVENTS: list[Event] = [("ann", item, 1) for item in ITEMS]
EVENTS += [(user, "milk", 85) for user in ("ann", "bob", "cat")] + [("cat", "caviar", 86)]


@pytest.fixture
def window(tmp_path: Path) -> Window:
    return load_window(make_shop(tmp_path / "shop", EVENTS, users=["zoe"]), Split.validation)


def read(window: Window, path: Path, users: list[str], k: int = 3) -> list[list[int]]:
    found: list[list[int]] = read_lists(path, window, window.users.rows(users), k).tolist()
    return found


def test_lists_come_in_the_order_of_the_users_and_ranks(window: Window, tmp_path: Path) -> None:
    path = write_lists(
        tmp_path / "lists.parquet",
        {},
        user_id=["cat", "ann", "ann", "cat"],
        item_id=["tea", "milk", "bread", "bread"],
        rank=[2, 2, 1, 1],
        score=[0.0] * 4,
        source=["ann"] * 4,
    )

    assert read(window, path, ["ann", "cat"]) == [[1, 2, 0], [1, 3, 0]]


def test_a_user_without_a_list_has_an_empty_one(window: Window, tmp_path: Path) -> None:
    path = write_lists(tmp_path / "lists.parquet", {"ann": ["tea"]})

    assert read(window, path, ["ann", "bob", "cat"]) == [[3, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_lists_of_users_who_are_not_judged_are_passed_over(window: Window, tmp_path: Path) -> None:
    path = write_lists(tmp_path / "lists.parquet", {"ann": ["tea"], "zoe": ["milk"]})

    assert read(window, path, ["ann"]) == [[3, 0, 0]]


def test_longer_lists_are_cut(window: Window, tmp_path: Path) -> None:
    path = write_lists(tmp_path / "lists.parquet", {"ann": ["tea", "milk", "bread"]})

    assert read(window, path, ["ann"], k=2) == [[3, 2]]


def test_an_item_of_the_catalogue_that_was_not_sold_before_keeps_its_place(
    window: Window, tmp_path: Path
) -> None:
    path = write_lists(tmp_path / "lists.parquet", {"ann": ["tea", "caviar", "milk"]})

    assert read(window, path, ["ann"]) == [[3, 0, 2]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"user_id": ["ann", "eve"]}, r"row 1: user_id 'eve' is not in the data set \(1 such rows\)"),
    ({"item_id": ["tea", "gold"]}, r"row 1: item_id 'gold' is not in the data set"),
    ({"item_id": ["tea", "tea"]}, r"row 1: the list of user 'ann' names item 'tea' twice"),
    ({"rank": [1, 1]}, r"row 1: the list of user 'ann' has rank 1 where rank 2 was expected"),
    ({"rank": [3, 1]}, r"row 0: the list of user 'ann' has rank 3 where rank 2 was expected"),
    ({"rank": [0, 1]}, r"row 0: the list of user 'ann' has rank 0 where rank 1 was expected"),
    ({"rank": [1.0, 2.0]}, r"ranks must be integers from 1; got double"),
    ({"rank": [1, None]}, r"row 1: rank is null"),
    ({"item_id": ["tea", None]}, r"row 1: item_id is null"),
    ({"user_id": [1, 1]}, r"user_id holds int64; the data set's are string"),
]


@pytest.mark.parametrize(("columns", "reason"), BAD)
def test_a_file_that_cannot_be_judged_is_refused(
    window: Window, tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    path = write_lists(tmp_path / "lists.parquet", {"ann": ["tea", "milk"]}, **columns)

    with pytest.raises(BadInput, match=reason):
        read(window, path, ["ann"])


def test_an_error_names_the_row_in_the_file(window: Window, tmp_path: Path) -> None:
    lists = {"cat": ["tea", "milk"], "ann": ["milk", "tea", "bread"]}
    path = write_lists(tmp_path / "lists.parquet", lists, rank=[1, 2, 1, 2, 2])

    with pytest.raises(BadInput, match=r"lists\.parquet, row 4: the list of user 'ann' has rank 2"):
        read(window, path, ["ann"])


def test_text_is_not_read_as_integer_ids(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", [(7, 30, 1), (7, 30, 85)])
    window = load_window(shop, Split.validation)
    path = write_lists(tmp_path / "lists.parquet", {"7": [30]})

    with pytest.raises(BadInput, match="user_id holds string; the data set's are int64"):
        read_lists(path, window, window.users.rows([7]), 3)


def test_an_empty_file_is_refused(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    columns = {"user_id": pa.string(), "item_id": pa.string(), "rank": pa.int32()}
    write_table(path, pa.table({name: pa.array([], dtype) for name, dtype in columns.items()}))

    with pytest.raises(BadInput, match="holds no list"):
        read(window, path, ["ann"])


def test_a_missing_column_or_file_is_named(window: Window, tmp_path: Path) -> None:
    write_table(tmp_path / "lists.parquet", pa.table({"user_id": ["ann"], "rank": [1]}))

    with pytest.raises(ArtifactError, match="item_id"):
        read(window, tmp_path / "lists.parquet", ["ann"])
    with pytest.raises(ArtifactError, match="does not exist"):
        read(window, tmp_path / "nowhere.parquet", ["ann"])
