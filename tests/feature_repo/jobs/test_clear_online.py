from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from feature_repo.contract import embedded
from feature_repo.contract.embedded import connect, embedded_url
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.online import entity_key
from feature_repo.jobs.clear_online import clear_online, project_of
from tests.feature_repo.jobs.shops import day, purchase, write_shop


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Redis]:
    """Return a client of an embedded server of its own."""
    before = len(embedded._SERVERS)
    yield connect(embedded_url(tmp_path / "online"))
    for server in embedded._SERVERS[before:]:
        server.stop()
    del embedded._SERVERS[before:]


@pytest.mark.parametrize("user_id", [7, -7, "seven", ""])
def test_the_project_is_read_from_a_key(user_id: int | str) -> None:
    assert project_of(entity_key("user_id", user_id, "my_shop")) == b"my_shop"


@pytest.mark.parametrize(
    "key", [b"", b"feedback", b"\x01\x00\x00\x00\x02\x00\x00\x00\xff\x00\x00\x00"]
)
def test_other_keys_have_no_project(key: bytes) -> None:
    assert project_of(key) is None


def test_only_the_keys_of_the_data_set_are_removed(tmp_path: Path, store: Redis) -> None:
    dataset = replace(write_shop(tmp_path, [purchase(1, 1, day(0))]), name="shop")
    mine = [entity_key("user_id", user, "shop") for user in (1, 2, "three")]
    # A user whose id ends like the project, a project that ends like this one, and a plain key.
    others = [entity_key("user_id", "shop", "my_shop"), b"a stream of shop"]
    for key in (*mine, *others):
        store.hset(key, "field", "value")  # type: ignore[arg-type]

    assert clear_online(dataset, store) == 3
    assert sorted(store.keys()) == sorted(others)  # type: ignore[arg-type]


def test_a_store_that_is_away_is_named(tmp_path: Path) -> None:
    dataset = write_shop(tmp_path, [purchase(1, 1, day(0))])
    away = Redis(port=1, socket_connect_timeout=1)

    with pytest.raises(StoreUnavailable, match="run the same command again"):
        clear_online(dataset, away)
