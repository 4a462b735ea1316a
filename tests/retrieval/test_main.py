"""``python -m retrieval``."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import write_table
from feature_repo.contract.dataset import Dataset
from retrieval.__main__ import main, titles_of


@pytest.fixture
def rows(shop_dataset: Dataset) -> str:
    return str(shop_dataset.sets / "ranking_v1-users-t1" / "users.parquet")


def test_candidates_are_shown_by_source_with_titles(
    bundle: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--bundle", str(bundle), "--user", "3", "5", "--k", "2", "--rows", rows])

    shown = capsys.readouterr().out
    assert code == 0
    assert shown.startswith("User 3\n")
    assert "User 5\n" in shown
    assert "  buy_again: " in shown
    assert "  Item 101\n" in shown


def test_users_are_read_from_a_file(
    bundle: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "users.parquet", pa.table({"user_id": [7, 8]}))

    code = main(
        ["--bundle", str(bundle), "--users", str(tmp_path / "users.parquet"), "--rows", rows]
    )

    assert code == 0
    assert capsys.readouterr().out.count("User ") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "987654"], "knows none of the users [987654]"),
        (["--user", "Anna"], "User ids are of type int64; got ['Anna']"),
        (["--user", "3", "--k", "0"], "--k must be at least 1"),
    ],
)
def test_mistakes_get_a_sentence(
    bundle: Path,
    rows: str,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--bundle", str(bundle), "--rows", rows, *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(tmp_path), "--user", "3"]) == 1
    assert "manifest.json does not exist" in capsys.readouterr().err


def test_an_item_without_a_title_is_called_by_its_category() -> None:
    items = pa.table(
        {"item_id": [1, 2, 3], "title": ["A", None, None], "category": [None, "B", None]}
    )

    assert titles_of(items) == {1: "A", 2: "B", 3: ""}
