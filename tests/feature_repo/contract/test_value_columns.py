"""Columns as messages, against Feast's own conversion and against messages written by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract.errors import BadInput
from feature_repo.contract.value_columns import can_encode, encode_column, varints
from feature_repo.contract.values import decode_value, decode_varints


def stock(values: list[Any], kind: ValueType) -> list[bytes]:
    return [value.SerializeToString() for value in python_values_to_proto_values(values, kind)]


def messages(values: list[Any], arrow: pa.DataType, dtype: str) -> list[Any]:
    return encode_column(pa.array(values, arrow), dtype).to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("dtype", "arrow", "values", "expected"),
    [
        # Tag: number of the field << 3 | wire type.
        ("Int64", pa.int64(), [0, 300, None], [b"\x20\x00", b"\x20\xac\x02", b""]),
        ("Int32", pa.int8(), [-1], [b"\x18" + b"\xff" * 9 + b"\x01"]),
        ("String", pa.string(), ["", "ü", None], [b"\x12\x00", b"\x12\x02\xc3\xbc", b""]),
        ("Bytes", pa.large_binary(), [b"\x00"], [b"\x0a\x01\x00"]),
        ("Float32", pa.float32(), [1.0, np.nan], [b"\x35\x00\x00\x80\x3f", b""]),
        ("Float32", pa.int64(), [1], [b"\x35\x00\x00\x80\x3f"]),
        ("Float64", pa.float32(), [1.0], [b"\x29" + bytes(6) + b"\xf0\x3f"]),
        ("Bool", pa.bool_(), [True, False, None], [b"\x38\x01", b"\x38\x00", b""]),
        ("Array(Int64)", pa.list_(pa.int64()), [[1, 300]], [b"\x72\x05\x0a\x03\x01\xac\x02"]),
        (
            "Array(Int64)",
            pa.list_(pa.int64()),
            [[], None, [None]],
            [b"\x72\x00", b"", b"\x72\x03\x0a\x01\x00"],
        ),
        (
            "Array(String)",
            pa.large_list(pa.string()),
            [["a", None]],
            [b"\x62\x05\x0a\x01a\x0a\x00"],
        ),
        (
            "Array(Float32)",
            pa.list_(pa.float32()),
            [[1.0]],
            [b"\x82\x01\x06\x0a\x04\x00\x00\x80\x3f"],
        ),
    ],
)
def test_messages_are_those_of_the_wire_format(
    dtype: str, arrow: pa.DataType, values: list[Any], expected: list[bytes]
) -> None:
    assert messages(values, arrow, dtype) == expected


@settings(max_examples=30)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_as_feast_writes_them(values: list[int]) -> None:
    assert messages(values, pa.int64(), "Int64") == stock(values, ValueType.INT64)
    assert messages([values], pa.list_(pa.int64()), "Array(Int64)") == stock(
        [values], ValueType.INT64_LIST
    )


@settings(max_examples=30)
@given(st.lists(st.text(), min_size=1))
def test_texts_are_as_feast_writes_them(values: list[str]) -> None:
    assert messages(values, pa.string(), "String") == stock(values, ValueType.STRING)
    assert messages([values], pa.list_(pa.string()), "Array(String)") == stock(
        [values], ValueType.STRING_LIST
    )


@settings(max_examples=30)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_reals_are_as_feast_writes_them(values: list[float]) -> None:
    assert messages(values, pa.float64(), "Float64") == stock(values, ValueType.DOUBLE)
    assert messages(values, pa.float64(), "Float32") == stock(values, ValueType.FLOAT)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_are_whole_seconds_and_a_missing_one_is_feasts_mark(unit: str) -> None:
    times = [datetime(2017, 1, 1, tzinfo=UTC), None]

    found = messages(times, pa.timestamp(unit, tz="UTC"), "UnixTimestamp")

    assert [decode_value(message) for message in found] == [1_483_228_800, -(2**63)]


def test_a_part_of_a_column_is_read_from_its_start() -> None:
    texts = pa.array(["a", "bb", None, "c"])[1:3]
    lists = pa.array([[1], [2, 3], None, []])[1:4]

    assert encode_column(texts, "String").to_pylist() == [b"\x12\x02bb", b""]
    assert encode_column(lists, "Array(Int64)").to_pylist() == [
        b"\x72\x04\x0a\x02\x02\x03",
        b"",
        b"\x72\x00",
    ]


def test_a_dictionary_of_texts_is_text() -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()

    assert can_encode("String", column.type)
    assert encode_column(column, "String").to_pylist() == [b"\x12\x01a", b"\x12\x01b", b"\x12\x01a"]


@pytest.mark.parametrize(
    ("dtype", "arrow"),
    [
        ("Map", pa.map_(pa.string(), pa.string())),
        ("Json", pa.string()),
        ("String", pa.int64()),
        ("Int64", pa.float64()),
        ("Array(Int64)", pa.int64()),
        ("Int64", pa.list_(pa.int64())),
        ("Array(Array(Int64))", pa.list_(pa.list_(pa.int64()))),
        ("UnixTimestamp", pa.int64()),
    ],
)
def test_what_feast_would_convert_otherwise_is_not_encoded(dtype: str, arrow: pa.DataType) -> None:
    assert not can_encode(dtype, arrow)


@pytest.mark.parametrize(
    ("dtype", "arrow", "value"), [("Int32", pa.int64(), 2**31), ("Int64", pa.uint64(), 2**63)]
)
def test_a_number_that_does_not_fit_is_refused(dtype: str, arrow: pa.DataType, value: int) -> None:
    with pytest.raises(BadInput, match=f"does not fit {dtype}"):
        messages([value], arrow, dtype)


@settings(max_examples=30)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_varints_read_back(values: list[int]) -> None:
    encoded = b"".join(varints(np.array(values, dtype=np.int64)).to_pylist())

    assert decode_varints(encoded).tolist() == values
