"""Whole Arrow columns as Feast's ``ValueProto`` messages, without a Python object a value.

The bytes are those of Feast's own conversion; ``values.py`` reads them one at a time. A null
scalar and a NaN are an empty message, a null list too; a null inside a list is the zero of its
type, NaN in lists of floats. Feast itself loses integers past 2^53 where the column has a null;
here they stay whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.errors import BadInput
from feature_repo.contract.values import NULL_TIMESTAMP

SCALARS: dict[str, int] = {
    "Bytes": 1,
    "String": 2,
    "Int32": 3,
    "Int64": 4,
    "Float64": 5,
    "Float32": 6,
    "Bool": 7,
    "UnixTimestamp": 8,
}
"""Numbers of the fields of ``ValueProto``; a list's is ten more."""
_LIST_OFFSET = 10
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5

_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EMPTY = pa.scalar(b"", pa.binary())


def element_of(dtype: str) -> str | None:
    """The element type of a Feast list type such as ``Array(Int64)``; None of a scalar."""
    return dtype[6:-1] if dtype.startswith("Array(") and dtype.endswith(")") else None


def can_encode(dtype: str, column: pa.DataType) -> bool:
    """Whether a column of an Arrow type can be written as a feature of a Feast type."""
    element = element_of(dtype)
    if element is None:
        return dtype in SCALARS and _accepts(dtype, column)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    is_list = any(check(column) for check in lists)
    return is_list and element in SCALARS and _accepts(element, column.value_type)


def _accepts(dtype: str, column: pa.DataType) -> bool:
    types = pa.types
    match dtype:
        case "String":
            if types.is_dictionary(column):
                column = column.value_type
            return bool(types.is_string(column) or types.is_large_string(column))
        case "Bytes":
            return bool(types.is_binary(column) or types.is_large_binary(column))
        case "Int32" | "Int64":
            return bool(types.is_integer(column))
        case "Float32" | "Float64":
            return bool(types.is_floating(column) or types.is_integer(column))
        case "Bool":
            return bool(types.is_boolean(column))
        case _:
            return bool(types.is_timestamp(column))


def encode_column(column: pa.Array, dtype: str) -> pa.BinaryArray:
    """The ``ValueProto`` messages of N values of the Feast type ``dtype``, without nulls.

    Raises:
        BadInput: a value does not fit its type.
    """
    element = element_of(dtype)
    try:
        if element is not None:
            return _encode_lists(column, element)
        return _encode_scalars(column, dtype)
    except pa.ArrowInvalid as error:
        raise BadInput(f"a value does not fit {dtype}: {error}.") from error


def _encode_scalars(column: pa.Array, dtype: str) -> pa.BinaryArray:
    number = SCALARS[dtype]
    if dtype in ("String", "Bytes"):
        messages = delimited(number, _texts(column, dtype))
        return pc.fill_null(messages, _EMPTY) if messages.null_count else messages
    if dtype in ("Float32", "Float64"):
        floats = _floats(column, dtype)
        tag = _tag(number, _FIXED32 if dtype == "Float32" else _FIXED64)
        return _fixed(floats, tag, ~np.isnan(floats))
    integers = _integers(column, dtype)
    keep_nulls = dtype == "UnixTimestamp" or not column.null_count
    valid = None if keep_nulls else column.is_valid().to_numpy(zero_copy_only=False)
    return varints(integers, _tag(number, _VARINT), valid)


def _encode_lists(column: pa.Array, element: str) -> pa.BinaryArray:
    """A message with a message that holds the packed values, or one field a text."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    flat = column.flatten()
    if element in ("String", "Bytes"):
        empty = pa.scalar("" if element == "String" else b"")
        values = flat if not flat.null_count else pc.fill_null(flat, empty.cast(flat.type))
        body = _grouped(delimited(1, _texts(values, element)), lengths)
    else:
        packed = delimited(1, _grouped(_packed(flat, element), lengths))
        body = pc.if_else(pa.array(lengths > 0), packed, _EMPTY)
    messages = delimited(SCALARS[element] + _LIST_OFFSET, body)
    return pc.if_else(column.is_valid(), messages, _EMPTY) if column.null_count else messages


def _packed(flat: pa.Array, element: str) -> pa.BinaryArray:
    if element in ("Float32", "Float64"):
        return _fixed(_floats(flat, element))
    return varints(_integers(flat, element))


def _texts(column: pa.Array, dtype: str) -> pa.BinaryArray:
    text = column.cast(pa.string()) if dtype == "String" else column
    return text.cast(pa.binary())


def _floats(column: pa.Array, dtype: str) -> npt.NDArray[Any]:
    """Values as float32 or float64; NaN where there is none."""
    if pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)
    values = column.cast(pa.float32() if dtype == "Float32" else pa.float64(), safe=False)
    return pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _integers(column: pa.Array, dtype: str) -> npt.NDArray[np.int64]:
    """Values as 64-bit integers; zero where there is none, ``NULL_TIMESTAMP`` of times."""
    if dtype == "UnixTimestamp":
        seconds = ticks(column) // _TICKS[column.type.unit]
        return np.where(column.is_valid(), seconds, NULL_TIMESTAMP)
    if dtype == "Int32":
        column = column.cast(pa.int32())
    elif dtype == "Bool":
        column = column.cast(pa.uint8())
    return ticks(column)


def ticks(column: pa.Array) -> npt.NDArray[np.int64]:
    """A column's values as 64-bit integers, times in their own unit; zero where there is none."""
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _tag(number: int, wire: int) -> bytes:
    """The varint in front of a field; two bytes from number 16 on."""
    key = number << 3 | wire
    return bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])


def binary_array(data: npt.NDArray[np.uint8], lengths: npt.NDArray[Any]) -> pa.BinaryArray:
    """Byte strings of ``lengths``, one after another in ``data``."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(lengths), buffers)


def byte_lengths(values: pa.BinaryArray) -> npt.NDArray[np.int32]:
    """How many bytes each value has."""
    return pc.binary_length(values).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def join(*pieces: pa.BinaryArray | pa.Scalar) -> pa.BinaryArray:
    """Each row's pieces one after another; a row with a null piece is null."""
    return pc.binary_join_element_wise(*pieces, _EMPTY)


def delimited(number: int, bodies: pa.BinaryArray) -> pa.BinaryArray:
    """A length-delimited field of each body; null where the body is."""
    lengths = pc.fill_null(pc.binary_length(bodies), 0).to_numpy(zero_copy_only=False)
    return join(varints(lengths.astype(np.int64), _tag(number, _DELIMITED)), bodies)


def varints(
    values: npt.NDArray[np.int64], lead: bytes = b"", valid: npt.NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """Base-128 varints of 64-bit integers, each behind ``lead``; empty where not ``valid``."""
    rest: npt.NDArray[Any] = values.view(np.uint64)
    top = int(rest.max()) if len(rest) else 0
    if top < 2**32:
        rest = rest.astype(np.uint32)  # twice as fast, and what most columns hold
    width = len(lead) + max(1, -(-top.bit_length() // 7))
    matrix = np.empty((len(rest), width), dtype=np.uint8)
    used = np.ones((len(rest), width), dtype=np.bool_)
    lengths = np.full(len(rest), len(lead) + 1, dtype=np.int32)
    matrix[:, : len(lead)] = np.frombuffer(lead, dtype=np.uint8)
    for place in range(len(lead), width):
        more = rest > 0x7F
        matrix[:, place] = rest.astype(np.uint8) & 0x7F | more.view(np.uint8) << 7
        used[:, place + 1 : place + 2] = more[:, None]
        lengths += more
        rest = rest >> 7
    if valid is not None:
        used &= valid[:, None]
        lengths *= valid
    return binary_array(matrix[used], lengths)


def fixed(matrix: npt.NDArray[np.uint8]) -> pa.BinaryArray:
    """The rows of an [N, W] matrix of bytes."""
    return binary_array(matrix.ravel(), np.full(len(matrix), matrix.shape[1], dtype=np.int32))


def _fixed(
    values: npt.NDArray[Any], lead: bytes = b"", valid: npt.NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """The little-endian bytes of numbers, each behind ``lead``; empty where not ``valid``."""
    size = values.dtype.itemsize
    matrix = np.empty((len(values), len(lead) + size), dtype=np.uint8)
    matrix[:, : len(lead)] = np.frombuffer(lead, dtype=np.uint8)
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    matrix[:, len(lead) :] = little.view(np.uint8).reshape(len(values), size)
    if valid is None or valid.all():
        return fixed(matrix)
    lengths = np.where(valid, matrix.shape[1], 0).astype(np.int32)
    return binary_array(matrix[valid].ravel(), lengths)


def _grouped(values: pa.BinaryArray, counts: npt.NDArray[Any]) -> pa.BinaryArray:
    """Consecutive values taken together, ``counts[i]`` of them in row i."""
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[: len(values) + 1]
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    grouped = np.ascontiguousarray(offsets[ends])
    buffers = [None, pa.py_buffer(grouped), values.buffers()[2]]
    return pa.BinaryArray.from_buffers(pa.binary(), len(counts), buffers)
