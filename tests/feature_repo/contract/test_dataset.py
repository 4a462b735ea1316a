from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import (
    DATASET_VARIABLE,
    REPOSITORY,
    Clock,
    Dataset,
    IdType,
    dataset_path,
    parse_time,
)
from feature_repo.contract.errors import ArtifactError, BadInput

EDGES = (
    datetime(2017, 10, 2, 4, tzinfo=UTC),
    datetime(2017, 10, 30, 4, tzinfo=UTC),
    datetime(2017, 11, 27, 5, tzinfo=UTC),
    datetime(2017, 12, 25, 5, tzinfo=UTC),
)


def dataset(root: Path) -> Dataset:
    return Dataset(
        name="shop",
        root=root,
        user_id=IdType.INT64,
        item_id=IdType.STRING,
        clock=Clock.AS_OF,
        start=datetime(2017, 1, 1, tzinfo=UTC),
        end=datetime(2018, 1, 1, tzinfo=UTC),
        edges=EDGES,
        history_items=50,
        half_life_days=28.0,
        columns={"users": ["region"]},
        counts={"events": 7},
    )


@pytest.mark.parametrize(
    "text",
    [
        "2017-11-27T05:00:00+00:00",
        "2017-11-27T05:00:00",
        "2017-11-27T05:00:00Z",
        "2017-11-27T00:00:00-05:00",
        "2017-11-27 05:00",
    ],
)
def test_times_are_read_as_utc(text: str) -> None:
    time = parse_time(text)

    assert time == EDGES[2]
    assert time.tzinfo is UTC


@pytest.mark.parametrize("text", ["tomorrow", "27.11.2017", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not an ISO 8601 time"):
        parse_time(text)


@pytest.mark.parametrize("edges", [EDGES[::-1], (EDGES[0], EDGES[0], EDGES[1], EDGES[2])])
def test_edges_must_rise(tmp_path: Path, edges: Any) -> None:
    with pytest.raises(BadInput, match="edges of shop must rise"):
        replace(dataset(tmp_path), edges=edges)


def test_an_edge_is_found_by_name_or_time(tmp_path: Path) -> None:
    found = dataset(tmp_path)

    assert [found.edge(f"t{number}") for number in range(4)] == list(EDGES)
    assert found.edge("2017-11-01") == datetime(2017, 11, 1, tzinfo=UTC)
    with pytest.raises(BadInput, match=r"has the edges \['t0', 't1', 't2', 't3'\]; got 't4'"):
        found.edge("t4")


def test_edges_before_t0_count_backwards(tmp_path: Path) -> None:
    days = [EDGES[0] - timedelta(days=56), EDGES[0] - timedelta(days=28)]
    found = replace(dataset(tmp_path), earlier=tuple(days))

    assert [found.edge("t-2"), found.edge("t-1"), found.edge("t0")] == [*days, EDGES[0]]
    assert Dataset.load(found.save()) == found
    with pytest.raises(BadInput, match="got 't-3'"):
        found.edge("t-3")


def test_a_saved_data_set_comes_back_equal(tmp_path: Path) -> None:
    found = dataset(tmp_path)

    assert Dataset.load(found.save()) == found


def test_a_moved_folder_is_found_where_it_lies_now(tmp_path: Path) -> None:
    dataset(tmp_path / "here").save()
    shutil.move(tmp_path / "here", tmp_path / "there")

    moved = Dataset.load(tmp_path / "there" / "dataset.json")

    assert moved.root == tmp_path / "there"
    assert moved.canonical == tmp_path / "there" / "canonical"
    assert moved.features == tmp_path / "there" / "features"
    assert moved.sets == tmp_path / "there" / "sets"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"dataset\.json does not exist"):
        Dataset.load(tmp_path / "dataset.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", None),
        ("user_id", "uuid"),
        ("user_id", None),
        ("clock", "sundial"),
        ("edges", None),
        ("surprise", 1),
        ("name", None),
    ],
)
def test_a_file_that_describes_no_data_set_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = dataset(tmp_path).save()
    content = read_json(path) | {key: value}
    write_json(path, {name: entry for name, entry in content.items() if entry is not None})

    with pytest.raises(ArtifactError, match=r"dataset\.json"):
        Dataset.load(path)


def test_the_path_is_found_by_name_then_environment_then_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(DATASET_VARIABLE, raising=False)
    assert dataset_path() == REPOSITORY / "data" / "complete_journey" / "dataset.json"

    monkeypatch.setenv(DATASET_VARIABLE, str(tmp_path / "dataset.json"))
    assert dataset_path() == tmp_path / "dataset.json"
    assert dataset_path("shop") == REPOSITORY / "data" / "shop" / "dataset.json"


def test_the_repository_is_the_checkout(repository: Path) -> None:
    assert repository == REPOSITORY
