"""Writing, reading and clearing a real Redis Cluster of three masters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis import Redis

from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import URL_VARIABLE, connect
from feature_repo.contract.hash_commands import HashCommands
from feature_repo.contract.online import OnlineReader, entity_key, field_name
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.values import decode_value
from feature_repo.jobs.clear_online import clear_online
from feature_repo.jobs.online_writer import Pipes, Writer, Written
from tests.feature_repo.jobs.online_shop import (
    END,
    ENGINE,
    START,
    USERS,
    all_views,
    contents,
    open_shop,
)
from tests.feature_repo.jobs.shops import day, purchase, write_shop
from tests.feature_repo.redis_servers import redis_cluster

OURS = {"type": "feature_repo.contract.feast_online.ShopRedisOnlineStore"}


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Return the ports of the cluster's masters."""
    with redis_cluster() as ports:
        yield ports


@pytest.fixture
def url(ports: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the cluster's URL, which is also set in the environment; it is emptied afterwards."""
    url = f"redis://127.0.0.1:{ports[1]}?cluster=true"
    monkeypatch.setenv(URL_VARIABLE, url)
    yield url
    empty(ports)


def masters(ports: list[int]) -> list[Any]:
    return [Redis(port=port) for port in ports]


def empty(ports: list[int]) -> None:
    for master in masters(ports):
        master.flushall()


def everything(ports: list[int]) -> dict[bytes, dict[bytes, bytes]]:
    return {key: row for master in masters(ports) for key, row in contents(master).items()}


def write(client: Any, commands: HashCommands, users: list[int]) -> Written:
    times = pa.array([START] * len(users), pa.timestamp("us", tz="UTC"))
    ids = pa.array(users, pa.int64())
    rows = pa.record_batch({"user_id": ids, "visits": ids, "event_timestamp": times})
    pipes = Pipes(client)
    try:
        *_, last = Writer(pipes, commands).write([rows])
    finally:
        pipes.close()
    return last


def test_feast_materialize_leaves_what_feasts_own_engine_leaves(
    tmp_path: Path, url: str, ports: list[int]
) -> None:
    stock = open_shop(tmp_path, OURS, None)
    stock.apply(all_views(tmp_path))
    stock.materialize(START, END)
    expected = everything(ports)
    empty(ports)

    open_shop(tmp_path, OURS, ENGINE).materialize(START, END)

    assert len(expected) == 12
    assert everything(ports) == expected


def test_each_row_is_at_its_slot_and_expires(url: str, ports: list[int]) -> None:
    # 0x7b and 0x7d are the braces of a hash tag, which decides the slot.
    users = [*range(3_000), 0x7D61627B, 0x7D_61_7B_00, -1]
    commands = HashCommands(
        "shop{}}", "v", {"user_id": "Int64"}, {"visits": "Int64"}, expire_s=1_000
    )
    cluster: Any = connect(url, timeout_s=10)

    first, second = (write(cluster, commands, users) for _ in range(2))

    sizes = [master.dbsize() for master in masters(ports)]
    assert first == Written(rows=3_003, stale=0)
    assert second == Written(rows=3_003, stale=3_003)
    assert sum(sizes) == 3_003
    assert min(sizes) > 800
    keys = [entity_key("user_id", user, "shop{}}") for user in users[-4:]]
    assert [decode_value(cluster.hget(key, field_name("v", "visits"))) for key in keys] == users[
        -4:
    ]
    assert all(990 < cluster.ttl(key) <= 1_000 for key in keys)


def test_users_of_all_masters_are_read_at_once(url: str) -> None:
    commands = HashCommands("shop", "v", {"user_id": "Int64"}, {"visits": "Int64"})
    write(connect(url, timeout_s=10), commands, list(range(100)))
    schema = Schema("s", (Feature("visits", Entity.USER, "v", "Int64", Encoding.NONE),))
    reader = OnlineReader(connect(url, timeout_s=10), "shop", schema, IdType.INT64)
    asked = [*range(99, -1, -1), 1_000]

    rows = reader.read(asked, END)

    assert rows.table["visits"].to_pylist() == [*range(99, -1, -1), None]
    assert rows.found == [True] * 100 + [False]


def test_only_the_keys_of_the_data_set_are_removed(
    tmp_path: Path, url: str, ports: list[int]
) -> None:
    dataset = replace(write_shop(tmp_path, [purchase(1, 1, day(0))]), name="shop")
    commands = HashCommands("shop", "v", {"user_id": "Int64"}, {"visits": "Int64"})
    for maker in (commands, replace(commands, project="my_shop")):
        write(connect(url, timeout_s=10), maker, USERS)

    assert clear_online(dataset, connect(url, timeout_s=10)) == len(USERS)
    assert set(everything(ports)) == {entity_key("user_id", user, "my_shop") for user in USERS}
