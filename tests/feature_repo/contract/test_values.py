"""Decoding ``ValueProto``, held against Feast's own protobuf classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Null, Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.values import decode_number_lists, decode_timestamp_s, decode_value

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
FLOAT64 = st.floats(allow_nan=False)

SCALARS = {
    "int32_val": INT32,
    "int64_val": INT64,
    "double_val": FLOAT64,
    "float_val": FLOAT32,
    "bool_val": st.booleans(),
    "string_val": st.text(),
    "bytes_val": st.binary(),
}
NUMBER_LISTS = {
    "int32_list_val": INT32,
    "int64_list_val": INT64,
    "double_list_val": FLOAT64,
    "float_list_val": FLOAT32,
    "bool_list_val": st.booleans(),
}


def message(field: str, value: Any) -> bytes:
    if field.endswith("_list_val"):
        proto = Value()
        getattr(proto, field).val.extend(value)
        getattr(proto, field).SetInParent()
        return bytes(proto.SerializeToString())
    return bytes(Value(**{field: value}).SerializeToString())


@pytest.mark.parametrize("field", SCALARS)
def test_a_scalar_comes_back_as_it_was_written(field: str) -> None:
    @given(SCALARS[field])
    def check(value: Any) -> None:
        decoded = decode_value(message(field, value))

        assert decoded == value
        assert type(decoded) is type(value)

    check()


@pytest.mark.parametrize("field", NUMBER_LISTS)
def test_a_list_of_numbers_comes_back_as_an_array(field: str) -> None:
    @given(st.lists(NUMBER_LISTS[field], max_size=20))
    def check(values: list[Any]) -> None:
        decoded = decode_value(message(field, values))

        assert isinstance(decoded, np.ndarray)
        assert decoded.tolist() == values

    check()


@given(st.lists(st.text(), max_size=10))
def test_a_list_of_strings_comes_back_as_a_list(values: list[str]) -> None:
    assert decode_value(message("string_list_val", values)) == values


@pytest.mark.parametrize(
    "absent",
    [None, b"", Value().SerializeToString(), Value(null_val=Null.NULL).SerializeToString()],
)
def test_a_missing_value_is_none(absent: bytes | None) -> None:
    assert decode_value(absent) is None


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_the_ends_of_64_bits_survive_in_a_list(value: int) -> None:
    decoded = decode_value(message("int64_list_val", [value, 5]))

    assert decoded.dtype == np.int64
    assert decoded.tolist() == [value, 5]


def test_a_value_cut_short_is_refused() -> None:
    whole = message("string_val", "a long enough text")

    with pytest.raises(ArtifactError, match="cut short"):
        decode_value(whole[:-3])


def test_a_type_that_nothing_uses_is_refused_with_its_number() -> None:
    with pytest.raises(ArtifactError, match="type number 9"):
        decode_value(bytes([9 << 3 | 2, 0]))


@given(st.integers(0, 4_102_444_800), st.integers(0, 999_999))
def test_a_timestamp_is_read_in_seconds(seconds: int, micros: int) -> None:
    stamp = Timestamp(seconds=seconds, nanos=micros * 1000)

    assert decode_timestamp_s(stamp.SerializeToString()) == seconds + micros / 1e6


def test_the_epoch_itself_is_an_empty_timestamp() -> None:
    assert decode_timestamp_s(b"") == 0.0


def test_a_time_before_the_epoch_is_negative() -> None:
    assert decode_timestamp_s(Timestamp(seconds=-5).SerializeToString()) == -5.0


@pytest.mark.parametrize("field", NUMBER_LISTS)
def test_lists_that_are_decoded_together_are_those_decoded_alone(field: str) -> None:
    @given(st.lists(st.none() | st.lists(NUMBER_LISTS[field], max_size=5), max_size=6))
    def check(lists: list[list[Any] | None]) -> None:
        messages = [None if each is None else message(field, each) for each in lists]

        values, lengths, known = decode_number_lists(messages)

        assert known == [each is not None for each in lists]
        assert lengths.tolist() == [len(each or ()) for each in lists]
        assert values.tolist() == [value for each in lists for value in each or ()]

    check()


def test_a_null_is_no_list_and_lists_of_two_types_are_refused() -> None:
    null = bytes(Value(null_val=Null.NULL).SerializeToString())

    assert decode_number_lists([null, None, b""])[2] == [False, False, False]
    with pytest.raises(ArtifactError, match="of the types"):
        decode_number_lists([message("int64_list_val", [1]), message("float_list_val", [1.0])])
    with pytest.raises(ArtifactError, match="no whole list"):
        decode_number_lists([message("int64_list_val", [1, 2, 3])[:-1]])
    with pytest.raises(ArtifactError, match="no whole list"):
        decode_number_lists([message("int64_val", 1)])
