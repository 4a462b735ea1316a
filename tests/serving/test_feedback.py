from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.event_log import log_files, rotate
from serving.feedback import FeedbackLog, FeedbackReader
from serving.feedback_tail import FeedbackTail
from serving.problems import StorageFailed

NOW = datetime(2017, 11, 27, 5, tzinfo=UTC)
READER = FeedbackReader(IdType.INT64, IdType.INT64, lambda: NOW)


def event(event_id: str = "e1", **changes: Any) -> dict[str, Any]:
    found = {"event_id": event_id, "user_id": 1, "item_id": 2, "event_type": "purchase", **changes}
    return {name: value for name, value in found.items() if value is not ...}


def lines(*events: dict[str, Any]) -> list[dict[str, Any]]:
    found, rejected = READER.read(events)
    assert rejected == []
    return found


def written(log: FeedbackLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    """Return a log that does not exist yet."""
    return FeedbackLog(tmp_path / "feedback" / "shop.jsonl")


def test_an_event_is_read_with_its_defaults() -> None:
    (line,) = lines(event(price=2.5))

    assert line == {
        "event_id": "e1",
        "user_id": 1,
        "item_id": 2,
        "event_type": "purchase",
        "event_timestamp": "2017-11-27T05:00:00+00:00",
        "recommendation_id": None,
        "session_id": None,
        "position": None,
        "quantity": 1,
        "price": 2.5,
    }


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2017-11-20T10:00:00", "2017-11-20T10:00:00+00:00"),
        ("2017-11-20T10:00:00-05:00", "2017-11-20T15:00:00+00:00"),
        ("2017-11-20T10:00:00Z", "2017-11-20T10:00:00+00:00"),
    ],
)
def test_times_are_stored_in_utc(given: str, stored: str) -> None:
    assert lines(event(event_timestamp=given))[0]["event_timestamp"] == stored


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (event(event_type="bought"), "event_type"),
        (event(user_id="1"), "user_id"),
        (event(item_id=1.5), "item_id"),
        (event(item_id=2**64), "item_id"),
        (event(event_id=""), "event_id"),
        (event(user_id=...), "user_id"),
        (event(event_timestamp="yesterday"), "event_timestamp"),
        (event(quantity=0), "quantity"),
        (event(price=-1), "price"),
        (event(colour="red"), "colour"),
        ("not an object", "event"),
    ],
)
def test_a_wrong_event_is_named_with_its_field_and_the_others_are_taken(
    wrong: Any, field: str
) -> None:
    found, rejected = READER.read([event("a"), wrong, event("b")])

    assert [line["event_id"] for line in found] == ["a", "b"]
    assert [(r.index, r.field) for r in rejected] == [(1, field)]
    assert field in rejected[0].reason
    assert rejected[0].reason.endswith(".")


def test_events_are_appended_with_the_time_of_their_arrival(log: FeedbackLog) -> None:
    assert log.append(lines(event("a"), event("b", item_id=3)), NOW) == 2

    assert [(line["event_id"], line["item_id"]) for line in written(log)] == [("a", 2), ("b", 3)]
    assert {line["received_at"] for line in written(log)} == {NOW.isoformat()}


def test_an_event_counts_once(log: FeedbackLog) -> None:
    assert log.append(lines(event("a"), event("a", item_id=9)), NOW) == 1
    assert log.append(lines(event("a"), event("b")), NOW) == 1

    assert [line["event_id"] for line in written(log)] == ["a", "b"]
    assert written(log)[0]["item_id"] == 2


def test_an_event_counts_once_over_a_restart(log: FeedbackLog) -> None:
    log.append(lines(event("a")), NOW)

    assert FeedbackLog(log.path).append(lines(event("a"), event("b")), NOW) == 1


def test_two_open_logs_see_each_others_events(log: FeedbackLog) -> None:
    other = FeedbackLog(log.path)
    other.append(lines(event("a")), NOW)
    log.append(lines(event("b")), NOW)

    assert other.append(lines(event("a"), event("b"), event("c")), NOW) == 1
    assert [line["event_id"] for line in written(log)] == ["a", "b", "c"]


def test_a_line_that_a_crash_left_half_written_is_cut(
    log: FeedbackLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.append(lines(event("a")), NOW)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"event_id": "b", "user')

    with caplog.at_level(logging.WARNING):
        assert FeedbackLog(log.path).append(lines(event("b")), NOW) == 1

    assert [line["event_id"] for line in written(log)] == ["a", "b"]
    assert "half-written line" in caplog.text


def test_a_line_that_is_no_event_is_passed_over(log: FeedbackLog) -> None:
    log.append(lines(event("a")), NOW)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('by hand\n{"event_id": 5}\n')

    assert FeedbackLog(log.path).append(lines(event("a"), event("b")), NOW) == 1


def test_a_log_that_was_moved_away_begins_anew(log: FeedbackLog, tmp_path: Path) -> None:
    log.append(lines(event("a")), NOW)
    log.path.rename(tmp_path / "archive.jsonl")

    assert log.append(lines(event("a"), event("b")), NOW) == 1
    assert [line["event_id"] for line in written(log)] == ["b"]


def test_an_event_counts_once_among_the_last_ones(log: FeedbackLog) -> None:
    few = FeedbackLog(log.path, most_known=2)
    few.append(lines(event("a"), event("b"), event("c")), NOW)

    assert few.append(lines(event("b"), event("c")), NOW) == 0
    assert few.append(lines(event("a")), NOW) == 1


def test_of_a_long_log_the_end_is_read(log: FeedbackLog) -> None:
    log.append(lines(*(event(f"e{number}") for number in range(50))), NOW)
    again = FeedbackLog(log.path, most_known=3)
    again.load()

    assert again.append(lines(event("e48"), event("e49")), NOW) == 0
    assert again.append(lines(event("e0")), NOW) == 1
    assert len(written(log)) == 51


def test_no_event_makes_no_file(log: FeedbackLog) -> None:
    assert log.append([], NOW) == 0

    assert not log.path.exists()


def _append_many(path: Path) -> None:
    log = FeedbackLog(path)
    for number in range(50):
        log.append(lines(event(f"e{number}")), NOW)


def test_processes_that_write_the_same_events_at_once_write_each_once(log: FeedbackLog) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(log.path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(line["event_id"] for line in written(log)) == sorted(f"e{n}" for n in range(50))


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Return what keeps this process from writing past some size of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_on_the_disk_is_not_taken(
    log: FeedbackLog, full_disk: Callable[[int], None]
) -> None:
    log.append(lines(event("a")), NOW)
    size = log.path.stat().st_size

    full_disk(size + size // 2)  # half an event more
    with pytest.raises(StorageFailed, match="none of them was taken; send them again"):
        log.append(lines(event("b"), event("c")), NOW)
    assert log.path.stat().st_size == size
    full_disk(resource.RLIM_INFINITY)

    assert log.append(lines(event("b"), event("c")), NOW) == 2
    assert [line["event_id"] for line in written(log)] == ["a", "b", "c"]


def _append_until_killed(path: Path, acknowledged: int) -> None:
    log = FeedbackLog(path)
    for number in itertools.count():
        log.append(lines(event(f"e{number}"), event(f"f{number}")), NOW)
        os.write(acknowledged, b".")


def test_what_was_acknowledged_survives_the_death_of_the_writer(log: FeedbackLog) -> None:
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_append_until_killed, args=(log.path, writing))
    writer.start()
    count = 0
    while count < 20:
        count += len(os.read(reading, 20 - count))
    writer.kill()
    writer.join()

    assert log.append(lines(event("last")), NOW) == 1
    found = {line["event_id"] for line in written(log)}
    assert {f"{kind}{number}" for kind in "ef" for number in range(count)} <= found


def test_an_event_counts_once_over_cuts_of_the_log(log: FeedbackLog) -> None:
    other = FeedbackLog(log.path)
    other.append(lines(event("a")), NOW)
    log.append(lines(event("b")), NOW)
    rotate(log.path)

    # ``other`` has not read b yet; a third one has read nothing.
    assert other.append(lines(event("a"), event("b"), event("c")), NOW) == 1
    rotate(log.path)
    third = FeedbackLog(log.path)
    third.load()
    assert third.append(lines(event("a"), event("b"), event("c"), event("d")), NOW) == 1

    texts = [path.read_text(encoding="utf-8") for path in log_files(log.path)]
    assert [json.loads(line)["event_id"] for line in "".join(texts).splitlines()] == list("abcd")


def _cut_often(path: Path, times: int) -> None:
    for _ in range(times):
        rotate(path)


def test_no_event_is_lost_or_doubled_while_the_log_is_cut(log: FeedbackLog) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(log.path,)) for _ in range(2)]
    workers += [context.Process(target=_cut_often, args=(log.path, 40))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    found = [
        json.loads(line)["event_id"]
        for path in log_files(log.path)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert sorted(found) == sorted(f"e{n}" for n in range(50))


def test_a_tail_tells_of_what_came_just_before_a_cut(log: FeedbackLog) -> None:
    heard: list[str] = []
    tail = FeedbackTail(log.path, [lambda line: heard.append(line["event_id"])])
    log.append(lines(event("a")), NOW)
    tail.catch_up()
    log.append(lines(event("b")), NOW)
    rotate(log.path)
    log.append(lines(event("c")), NOW)

    tail.catch_up()

    assert heard == ["a", "b", "c"]
