"""Our reader of the online store against stock Feast, on the embedded server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity as FeastEntity
from feast import FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    PrimitiveFeastType,
    String,
    UnixTimestamp,
)
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.contract import embedded
from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import FOLDER_VARIABLE, URL_VARIABLE, connect, online_url
from feature_repo.contract.errors import BadInput, StoreUnavailable
from feature_repo.contract.online import OnlineReader, Presence, arrow_type, entity_key
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema

START = datetime(2017, 11, 1, tzinfo=UTC)
NOW = datetime(2017, 11, 27, 5, tzinfo=UTC)
DAY_S = 86_400
LATE, EARLY = NOW - timedelta(days=1), NOW - timedelta(days=20)

# Feast writes scalar integers of a batch with a null through float64: exact up to 2^53.
SCALARS: dict[str, tuple[PrimitiveFeastType, list[Any]]] = {
    "age_band": (String, ["19-24", None, ""]),
    "events_total": (Int64, [2**53 - 1, None, -3]),
    "children": (Int32, [2, 0, None]),
    "spend": (Float32, [12.5, None, -0.0]),
    "rate": (Float64, [0.1, None, 1e300]),
    "member": (Bool, [True, None, False]),
    "token": (Bytes, [b"\x00\xff", None, b""]),
    "joined": (UnixTimestamp, [EARLY, None, NOW]),
}
LISTS: dict[str, tuple[PrimitiveFeastType, list[Any]]] = {
    "item_ids": (Int64, [[2**62 + 1, -7, 5], None, []]),
    "weights": (Float32, [[0.5, 1.25, 3.0], None, []]),
    "names": (String, [["a", "", "ü"], None, []]),
    "small_ids": (Int32, [[2**31 - 1, -1], None, []]),
    "rates": (Float64, [[0.1, 1e300], None, []]),
    "flags": (Bool, [[True, False], None, []]),
    "tokens": (Bytes, [[b"\x00", b""], None, []]),
    "visits": (UnixTimestamp, [[EARLY, NOW], None, []]),
}


@dataclass(frozen=True)
class Shop:
    """A feature store with three users, materialised by Feast into the embedded server."""

    store: FeatureStore
    schema: Schema
    users: list[Any]
    id_type: IdType

    def reader(self, ttl_s: int | None = None) -> OnlineReader:
        features = tuple(replace(feature, ttl_s=ttl_s) for feature in self.schema.features)
        schema = Schema("test_v1", features)
        return OnlineReader(connect(), self.store.project, schema, self.id_type)

    def stock(self, users: list[Any]) -> dict[str, list[Any]]:
        features = [f"{feature.view}:{feature.name}" for feature in self.schema.features]
        rows = [{"user_id": user} for user in users]
        return self.store.get_online_features(features, rows).to_dict()


def source_table(users: list[Any], columns: dict[str, Any], time: datetime) -> pa.Table:
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    times = pa.array([time] * len(users), pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": users, "event_timestamp": times, **arrays})


def view(folder: Path, name: str, user: FeastEntity, fields: list[Field]) -> FeatureView:
    source = FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
    return FeatureView(name=name, entities=[user], schema=fields, source=source, ttl=None)


def build(folder: Path, users: list[Any], id_type: IdType) -> Shop:
    value_type = ValueType.INT64 if id_type is IdType.INT64 else ValueType.STRING
    user = FeastEntity(name="user", join_keys=["user_id"], value_type=value_type)
    scalars = {n: (arrow_type(feature("user_profile", n, k)), v) for n, (k, v) in SCALARS.items()}
    lists = {
        n: (arrow_type(feature("user_history", n, Array(k))), v) for n, (k, v) in LISTS.items()
    }
    pq.write_table(source_table(users, scalars, EARLY), folder / "user_profile.parquet")
    pq.write_table(source_table(users, lists, LATE), folder / "user_history.parquet")
    views = [
        view(
            folder, "user_profile", user, [Field(name=n, dtype=k) for n, (k, _) in SCALARS.items()]
        ),
        view(
            folder,
            "user_history",
            user,
            [Field(name=n, dtype=Array(k)) for n, (k, _) in LISTS.items()],
        ),
    ]
    store = FeatureStore(config=repo_config(folder, f"shop_{id_type.value}"))
    store.apply([user, *views])
    store.materialize(START, NOW)
    features = [feature("user_profile", n, k) for n, (k, _) in SCALARS.items()]
    features += [feature("user_history", n, Array(k)) for n, (k, _) in LISTS.items()]
    return Shop(store, Schema("test_v1", tuple(features)), users, id_type)


def feature(view: str, name: str, kind: Any) -> Feature:
    return Feature(name, Entity.USER, view, str(kind), Encoding.NONE)


def repo_config(folder: Path, project: str) -> RepoConfig:
    return RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "feature_repo.contract.feast_online.ShopRedisOnlineStore"},
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run an embedded server of this module's own."""
    before = len(embedded._SERVERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(URL_VARIABLE, raising=False)
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("online")))
        online_url()
        yield
    for server in embedded._SERVERS[before:]:
        server.stop()
    del embedded._SERVERS[before:]


@pytest.fixture(scope="module", params=[IdType.INT64, IdType.STRING])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, online: None
) -> Shop:
    """Return a shop with integer ids and one with string ids."""
    users = [7, -1, 2**62] if request.param is IdType.INT64 else ["7", "Zoë", ""]
    return build(tmp_path_factory.mktemp("shop"), users, request.param)


def values(column: pa.Array) -> list[Any]:
    return column.to_pylist()  # type: ignore[no-any-return]


def test_the_reader_gives_what_stock_feast_gives(shop: Shop) -> None:
    stock = shop.stock(shop.users)

    rows = shop.reader().read(shop.users, NOW)

    assert rows.found == [True, True, True]
    assert values(rows.table["user_id"]) == shop.users
    for name in (*SCALARS, *LISTS):
        assert values(rows.table[name]) == stock[name], name


def test_the_reader_gives_what_was_written(shop: Shop) -> None:
    table = shop.reader().read(shop.users, NOW).table

    for name, (_, written) in SCALARS.items():
        assert values(table[name]) == written, name
    for name, (_, lists) in LISTS.items():
        # Feast stores a null list as an empty one.
        assert [found or [] for found in values(table[name])] == [want or [] for want in lists]


def test_columns_have_the_types_of_the_schema(shop: Shop) -> None:
    table = shop.reader().read(shop.users, NOW).table

    for item in shop.schema.features:
        assert table[item.name].type == arrow_type(item), item.name


def test_rows_come_in_the_order_asked_for(shop: Shop) -> None:
    users = [shop.users[2], shop.users[0], shop.users[0]]

    table = shop.reader().read(users, NOW).table

    want = SCALARS["events_total"][1]
    assert values(table["events_total"]) == [want[2], want[0], want[0]]


def test_an_unknown_user_is_not_found_and_all_null(shop: Shop) -> None:
    unknown = 12345 if shop.id_type is IdType.INT64 else "nobody"

    rows = shop.reader().read([shop.users[0], unknown], NOW)

    assert rows.found == [True, False]
    assert all(values(rows.table[name])[1] is None for name in (*SCALARS, *LISTS))


class Counted:
    """A client that counts its round trips."""

    def __init__(self) -> None:
        self.trips = 0

    def pipeline(self, transaction: bool = True) -> Any:
        self.trips += 1
        return connect().pipeline(transaction)


def test_all_users_and_views_are_one_round_trip(shop: Shop) -> None:
    client = Counted()
    reader = OnlineReader(client, shop.store.project, shop.schema, shop.id_type)

    rows = reader.read([*shop.users, *shop.users], NOW)

    assert (client.trips, rows.found) == (1, [True] * 6)


def test_no_user_is_an_empty_table(shop: Shop) -> None:
    rows = shop.reader().read([], NOW)

    assert (len(rows.table), rows.found) == (0, [])


def test_the_time_to_live_counts_from_each_views_last_write(shop: Shop) -> None:
    rows = shop.reader(ttl_s=2 * DAY_S).read(shop.users[:1], NOW)

    assert values(rows.table["item_ids"]) == [[2**62 + 1, -7, 5]]  # a day old
    assert values(rows.table["events_total"]) == [None]  # twenty days old
    assert rows.presence == {
        "user_history": [Presence.PRESENT],
        "user_profile": [Presence.EXPIRED],
    }


@pytest.mark.parametrize(("more_s", "present"), [(0, True), (1, False)])
def test_a_value_holds_for_exactly_its_time_to_live(shop: Shop, more_s: int, present: bool) -> None:
    now = EARLY + timedelta(seconds=20 * DAY_S + more_s)

    rows = shop.reader(ttl_s=20 * DAY_S).read(shop.users[:1], now)

    expected = Presence.PRESENT if present else Presence.EXPIRED
    assert rows.presence["user_profile"] == [expected]


def test_a_missing_view_an_expired_one_and_a_null_are_told_apart(shop: Shop) -> None:
    unknown = 12345 if shop.id_type is IdType.INT64 else "nobody"

    fresh = shop.reader().read([shop.users[1], unknown], NOW)
    expired = shop.reader(ttl_s=1).read([shop.users[1], unknown], NOW)

    for rows in (fresh, expired):
        assert values(rows.table["events_total"]) == [None, None]
    assert fresh.presence["user_profile"] == [Presence.PRESENT, Presence.MISSING]
    assert expired.presence["user_profile"] == [Presence.EXPIRED, Presence.MISSING]
    assert expired.found == [True, False]


def test_the_row_carries_now_as_its_time(shop: Shop) -> None:
    assert values(shop.reader().read(shop.users[:1], NOW).table["event_timestamp"]) == [NOW]


def test_another_project_sees_nothing(shop: Shop) -> None:
    reader = OnlineReader(connect(), "another_shop", shop.schema, shop.id_type)

    assert reader.read(shop.users, NOW).found == [False, False, False]


def test_a_store_that_is_away_is_a_sentence(shop: Shop) -> None:
    client = Redis(port=1, socket_connect_timeout=0.1, retry=Retry(NoBackoff(), 0))
    reader = OnlineReader(client, "shop", shop.schema, shop.id_type)

    with pytest.raises(StoreUnavailable, match="The online store does not answer"):
        reader.read(shop.users, NOW)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, True])
def test_an_id_past_64_bits_is_refused(value: int) -> None:
    with pytest.raises(BadInput, match="64-bit integer or a string"):
        entity_key("user_id", value, "shop")


def test_a_number_and_its_text_are_two_users() -> None:
    assert entity_key("user_id", 7, "shop") != entity_key("user_id", "7", "shop")


def test_a_type_without_a_column_type_is_refused() -> None:
    with pytest.raises(BadInput, match="Feast type Map cannot be read"):
        arrow_type(Feature("a", Entity.USER, "v", "Map", Encoding.NONE))


def test_lists_read_from_the_store_are_plain_arrow_lists(shop: Shop) -> None:
    column = shop.reader().read(shop.users, NOW).table["weights"].combine_chunks()

    assert np.asarray(column.flatten()).dtype == np.float32
