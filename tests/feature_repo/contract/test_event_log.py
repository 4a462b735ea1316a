from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from feature_repo.contract.event_log import (
    LogReader,
    events_of,
    log_files,
    log_id,
    rotate,
    segment_path,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a log that does not exist yet."""
    return tmp_path / "feedback" / "shop.jsonl"


def append(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps({"event_id": name}) + "\n" for name in names))


def names(data: bytes) -> list[str]:
    return [event["event_id"] for event in events_of(data)]


def test_a_log_is_cut_into_segments_that_are_numbered(path: Path) -> None:
    assert rotate(path) is None
    append(path, "a")
    assert rotate(path) == 1
    assert rotate(path) is None
    append(path, "b")
    assert rotate(path) == 2
    append(path, "c")

    assert [file.name for file in log_files(path)] == [
        "shop.000001.jsonl",
        "shop.000002.jsonl",
        "shop.jsonl",
    ]


def test_a_half_written_line_is_not_part_of_a_segment(path: Path) -> None:
    append(path, "a")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event_id": "b')

    rotate(path)

    assert names(segment_path(path, 1).read_bytes()) == ["a"]
    assert segment_path(path, 1).read_bytes().endswith(b"\n")


def test_a_reader_reads_every_line_once_over_cuts(path: Path) -> None:
    shuffled, reader, found = random.Random(2), LogReader(path), []
    for number in range(200):
        append(path, str(number))
        if shuffled.random() < 0.2:
            rotate(path)
        if shuffled.random() < 0.3:
            reader = LogReader(path, reader.segment, reader.offset)  # over a restart
            found += names(reader.read(shuffled.choice([10, 100, 10_000])))
    while data := reader.read(50):
        found += names(data)

    assert found == [str(number) for number in range(200)]


def test_a_reader_tells_the_segment_that_a_line_will_be_in(path: Path) -> None:
    append(path, "a")
    rotate(path)
    append(path, "b")
    reader = LogReader(path)

    places = [(names(reader.read()), reader.segment) for _ in range(2)]
    rotate(path)

    assert places == [(["a"], 1), (["b"], 2)]
    assert names(segment_path(path, 2).read_bytes()) == ["b"]


def test_a_half_written_line_is_not_read_yet(path: Path) -> None:
    append(path, "a")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event_id": ')
    reader = LogReader(path)
    assert names(reader.read()) == ["a"]
    assert reader.read() == b""

    with path.open("a", encoding="utf-8") as file:
        file.write('"b"}\n')

    assert names(reader.read()) == ["b"]


def test_where_old_segments_were_removed_reading_goes_on_with_the_next(path: Path) -> None:
    for name in "abc":
        append(path, name)
        rotate(path)
    segment_path(path, 1).unlink()

    assert names(LogReader(path, 1, 7).read()) == ["b"]


def test_a_log_has_a_name_of_its_own(path: Path, tmp_path: Path) -> None:
    assert log_id(path) == log_id(path) != log_id(tmp_path / "other" / "shop.jsonl")
