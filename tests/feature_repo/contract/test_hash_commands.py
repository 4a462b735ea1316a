"""Batches as Redis commands: keys against Feast's serialisation, slots against redis-py's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from feature_repo.contract.errors import BadInput
from feature_repo.contract.hash_commands import (
    HashCommands,
    decode_times,
    encode_times,
    key_slots,
)
from feature_repo.contract.online import entity_key, field_name

MICROSECONDS = st.integers(-(2**53), 2**53)


def commands(join_keys: dict[str, str], **settings: Any) -> HashCommands:
    return HashCommands("shop", "v", join_keys, {"visits": "Int64"}, **settings)


def batch(**columns: Any) -> pa.RecordBatch:
    length = len(next(iter(columns.values())))
    times = pa.array([1_500_000_000_000_000] * length, pa.timestamp("us"))
    return pa.record_batch({**columns, "event_timestamp": times})


@settings(max_examples=30)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_keys_of_numbers_are_those_that_readers_look_for(users: list[int]) -> None:
    keys = commands({"user_id": "Int64"}).keys(batch(user_id=pa.array(users, pa.int64())))

    assert keys.to_pylist() == [entity_key("user_id", user, "shop") for user in users]


@settings(max_examples=30)
@given(st.lists(st.text(), min_size=1))
def test_keys_of_text_are_those_that_readers_look_for(users: list[str]) -> None:
    keys = commands({"user_id": "String"}).keys(batch(user_id=pa.array(users, pa.string())))

    assert keys.to_pylist() == [entity_key("user_id", user, "shop") for user in users]


def test_keys_of_several_parts_are_sorted_by_name() -> None:
    ours = commands({"shop_id": "String", "a_id": "Int32"}).keys(
        batch(shop_id=pa.array(["x", "yy"]), a_id=pa.array([1, -1], pa.int64()))
    )

    expected = [
        _redis_key(
            "shop",
            EntityKey(
                join_keys=["shop_id", "a_id"],
                entity_values=[Value(string_val=text), Value(int32_val=number)],
            ),
        )
        for text, number in (("x", 1), ("yy", -1))
    ]
    assert ours.to_pylist() == expected


def test_a_row_is_one_command_of_the_protocol() -> None:
    maker = commands({"user_id": "Int64"})
    rows = batch(user_id=[7], visits=[300])
    key = entity_key("user_id", 7, "shop")

    (written,) = maker.writes(maker.keys(rows), rows).to_pylist()

    stamp = Timestamp(seconds=1_500_000_000).SerializeToString()
    parts = [b"HSET", key, b"_ts:v", stamp, field_name("v", "visits"), b"\x20\xac\x02"]
    assert written == b"*6\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def test_a_row_that_expires_has_a_second_command() -> None:
    maker = commands({"user_id": "Int64"}, expire_s=60)
    rows = batch(user_id=[7], visits=[1])
    key = entity_key("user_id", 7, "shop")

    (written,) = maker.writes(maker.keys(rows), rows).to_pylist()

    parts = [b"EXPIRE", key, b"60"]
    assert written.startswith(b"*6\r\n$4\r\nHSET\r\n")
    assert written.endswith(b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
    assert maker.replies_per_row == 2


def test_values_of_many_lengths_have_the_right_headers() -> None:
    maker = HashCommands("shop", "v", {"user_id": "Int64"}, {"name": "String"})
    names = ["", "x", None, "y" * 1_000, "x"]
    rows = batch(user_id=list(range(5)), name=names)

    written = maker.writes(maker.keys(rows), rows).to_pylist()

    messages = [b"\x12\x00", b"\x12\x01x", b"", b"\x12\xe8\x07" + b"y" * 1_000, b"\x12\x01x"]
    endings = [b"$%d\r\n%b\r\n" % (len(message), message) for message in messages]
    assert [row.endswith(end) for row, end in zip(written, endings, strict=True)] == [True] * 5


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(BadInput, match="2 rows of view v have no user_id"):
        commands({"user_id": "Int64"}).keys(batch(user_id=pa.array([1, None, None], pa.int64())))


def test_a_key_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="A user_id of view v is no Int32"):
        commands({"user_id": "Int32"}).keys(batch(user_id=[2**31]))


@settings(max_examples=30)
@given(st.lists(MICROSECONDS, min_size=1))
def test_times_are_protobufs_and_read_back(times: list[int]) -> None:
    expected = []
    for time in times:
        stamp = Timestamp()
        stamp.FromMicroseconds(time)
        expected.append(stamp.SerializeToString())

    found = encode_times(np.array(times)).to_pylist()
    seconds, nanos = decode_times([None, *found, None])

    assert found == expected
    assert seconds.tolist() == [0, *(time // 1_000_000 for time in times), 0]
    assert nanos.tolist() == [0, *(time % 1_000_000 * 1_000 for time in times), 0]


@settings(max_examples=30)
@given(st.lists(st.binary() | st.text("{}a").map(str.encode), min_size=1))
def test_slots_are_those_of_a_cluster(keys: list[bytes]) -> None:
    assert key_slots(pa.array(keys, pa.binary())).tolist() == [key_slot(key) for key in keys]
