"""Decoding Feast's ``ValueProto`` without importing Feast.

The wire format is protobuf's: https://protobuf.dev/programming-guides/encoding/. Field numbers
are those of ``feast/types/Value.proto``. Importing Feast for this takes seconds and 200 MB.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import ArtifactError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_BYTES_VAL, _STRING, _INT32, _INT64, _DOUBLE, _FLOAT, _BOOL, _UNIX = range(1, 9)
_BYTES_LIST, _STRING_LIST, _INT32_LIST, _INT64_LIST = range(11, 15)
_DOUBLE_LIST, _FLOAT_LIST, _BOOL_LIST, _UNIX_LIST, _NULL = range(15, 20)

NULL_TIMESTAMP = -(2**63)
"""What Feast stores for a null ``UnixTimestamp``."""


def decode_value(message: bytes | None) -> Any:
    """The Python value of one ``ValueProto``: None, a scalar, a numpy array or a list of strings.

    Raises:
        ArtifactError: the bytes are not a ``ValueProto`` of a type in use.
    """
    if not message:
        return None
    try:
        tag, start = _varint(message, 0)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            raw, _ = _varint(message, start)
            return _integer(number, raw)
        if wire == _FIXED64:
            return struct.unpack_from("<d", message, start)[0]
        if wire == _FIXED32:
            return struct.unpack_from("<f", message, start)[0]
        length, start = _varint(message, start)
        body = message[start : start + length]
    except (IndexError, struct.error) as error:
        raise ArtifactError(f"A value of the online store is cut short: {message!r}") from error
    if len(body) != length:
        raise ArtifactError(f"A value of the online store is cut short: {message[:32]!r}...")
    return _content(number, body)


def decode_timestamp_s(message: bytes) -> float:
    """Epoch seconds of a ``google.protobuf.Timestamp``; absent fields are zero."""
    fields = {1: 0, 2: 0}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        raw, place = _varint(message, place)
        fields[tag >> 3] = _signed(raw)
    return fields[1] + fields[2] / 1e9


def _integer(number: int, raw: int) -> int | bool | None:
    if number == _NULL:
        return None
    return bool(raw) if number == _BOOL else _signed(raw)


def _content(number: int, body: bytes) -> Any:
    if number == _STRING:
        return body.decode()
    if number == _BYTES_VAL:
        return body
    if number in (_STRING_LIST, _BYTES_LIST):
        parts = _parts(body)
        return [part.decode() for part in parts] if number == _STRING_LIST else parts
    return _numbers(number, b"".join(_parts(body)))


def _numbers(number: int, packed: bytes) -> npt.NDArray[Any]:
    """The values of a list of numbers, of a type by its number."""
    if number == _BOOL_LIST:
        return decode_varints(packed).astype(np.bool_)
    if number in (_INT32_LIST, _INT64_LIST, _UNIX_LIST):
        return decode_varints(packed)
    if number in (_FLOAT_LIST, _DOUBLE_LIST):
        return np.frombuffer(packed, dtype="<f4" if number == _FLOAT_LIST else "<f8")
    raise ArtifactError(f"The online store holds a value of type number {number}; none is in use.")


def decode_number_lists(
    messages: Sequence[bytes | None],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], list[bool]]:
    """Lists of numbers, all of one type, decoded at once.

    Args:
        messages: ``ValueProto`` messages; None, an empty one and a null are no list.

    Returns:
        The values, the length of each list, and whether there is one.

    Raises:
        ArtifactError: one is cut short, or not a list of numbers of the others' type.
    """
    found = [_packed_of(message) if message else None for message in messages]
    numbers = {part[0] for part in found if part is not None}
    if len(numbers) > 1:
        raise ArtifactError(f"The online store holds values of the types {numbers} in one feature.")
    parts = [b"" if part is None else part[1] for part in found]
    together = b"".join(parts)
    values = _numbers(numbers.pop(), together) if numbers else np.zeros(0, np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    if values.dtype.kind == "f":
        bounds = bounds // values.itemsize
    else:
        ends = np.frombuffer(together, np.uint8) < 0x80
        bounds = np.concatenate([[0], np.cumsum(ends)])[bounds]
    return values, np.diff(bounds), [part is not None for part in found]


def _packed_of(message: bytes) -> tuple[int, bytes] | None:
    """The number of a list's type, and the bytes of its values; None for a null."""
    try:
        tag, place = _varint(message, 0)
        number = tag >> 3
        if number == _NULL:
            return None
        length, place = _varint(message, place)
        if tag & 7 != _BYTES or place + length != len(message) or number < _BYTES_LIST:
            raise ArtifactError(f"A value of the online store is no whole list: {message[:32]!r}.")
        parts = _parts(message[place:])
    except IndexError as error:
        raise ArtifactError(f"A value of the online store is cut short: {message!r}") from error
    return number, parts[0] if len(parts) == 1 else b"".join(parts)


def _parts(body: bytes) -> list[bytes]:
    parts = []
    place = 0
    while place < len(body):
        tag, place = _varint(body, place)
        if tag != (1 << 3 | _BYTES):
            raise ArtifactError("A list of the online store is not packed as Feast packs it.")
        length, place = _varint(body, place)
        parts.append(body[place : place + length])
        place += length
    return parts


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _signed(raw: int) -> int:
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def decode_varints(packed: bytes) -> npt.NDArray[np.int64]:
    """All varints of a packed field as signed 64-bit integers, decoded at once."""
    data = np.frombuffer(packed, dtype=np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    found = (data[starts] & 0x7F).astype(np.uint64)
    for place in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        more = (data[starts[longer] + place] & 0x7F).astype(np.uint64)
        found[longer] |= more << np.uint64(7 * place)
    signed: npt.NDArray[np.int64] = found.view(np.int64)
    return signed
