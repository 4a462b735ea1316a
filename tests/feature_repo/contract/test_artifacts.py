"""Files that are whole or absent, and folders that introduce themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import (
    atomic_folder,
    atomic_path,
    read_json,
    read_manifest,
    read_table,
    sha256_file,
    sha256_text,
    write_json,
    write_manifest,
    write_table,
)
from feature_repo.contract.errors import ArtifactError


class Interrupted(Exception):
    """Stands for anything that ends a writer halfway."""


def write_half_a_file(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise Interrupted


def write_half_a_folder(target: Path) -> None:
    with atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("half")
        raise Interrupted


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write_half_a_file(tmp_path / "a.txt")

    assert names(tmp_path) == []


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    with pytest.raises(Interrupted):
        write_half_a_file(target)

    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_finished_file_is_readable_by_all(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_text("whole")

    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert os.stat(tmp_path / "deep" / "a.txt").st_mode & 0o777 == 0o644


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "release"
    target.mkdir()
    (target / "old.txt").write_text("old")

    with pytest.raises(Interrupted):
        write_half_a_folder(target)

    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["release"]


def test_a_finished_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "release"
    target.mkdir()
    (target / "old.txt").write_text("old")

    with atomic_folder(target) as temporary:
        (temporary / "new.txt").write_text("new")

    assert names(target) == ["new.txt"]
    assert names(tmp_path) == ["release"]


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "é"]})

    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None, "é"]}


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))

    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe"])
def test_a_truncated_json_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(ArtifactError, match="not whole JSON"):
        read_json(tmp_path / "a.json")


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "b": [["x"], []]})

    write_table(tmp_path / "a.parquet", table)

    assert read_table(tmp_path / "a.parquet").equals(table)
    assert read_table(tmp_path / "a.parquet", ["b"]).column_names == ["b"]


def test_a_missing_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pa.table({"a": [1]}))

    with pytest.raises(ArtifactError, match=r"lacks \['c'\]; it has \['a'\]"):
        read_table(tmp_path / "a.parquet", ["a", "c"])


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"a": list(range(1000))}))
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(ArtifactError, match="not a whole Parquet file"):
        read_table(path)


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    read = read_json if name.endswith("json") else read_table

    with pytest.raises(ArtifactError, match=f"{name} does not exist"):
        read(tmp_path / name)


def test_the_hash_of_a_file_is_that_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc", encoding="utf-8")

    assert sha256_file(tmp_path / "a.txt") == sha256_text("abc")
    assert sha256_text("abc").startswith("ba7816bf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one file, one folder within, and a manifest."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    write_manifest(tmp_path, "release", {"version": "v1"})
    return tmp_path


def test_a_whole_folder_says_what_it_is(folder: Path) -> None:
    assert read_manifest(folder, "release") == {"version": "v1"}


def test_another_kind_of_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a 'release'; expected a 'retriever'"):
        read_manifest(folder, "retriever")


def test_a_changed_file_is_named(folder: Path) -> None:
    (folder / "part" / "a.txt").write_text("changed")

    with pytest.raises(ArtifactError, match=r"a\.txt does not match its hash"):
        read_manifest(folder, "release")


def test_a_missing_file_of_the_manifest_is_named(folder: Path) -> None:
    (folder / "b.txt").unlink()

    with pytest.raises(ArtifactError, match=r"b\.txt is named in the manifest but missing"):
        read_manifest(folder, "release")


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    write_json(folder / "manifest.json", {"format": 99, "kind": "release"})

    with pytest.raises(ArtifactError, match="not a manifest of format 1"):
        read_manifest(folder, "release")
