"""Batches of rows as Redis commands: what Feast's Redis store would send, all rows at once.

A batch becomes one string of bytes ready for the wire. Layout: see ``online.py``; commands are
arrays of bulk strings (https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.errors import BadInput
from feature_repo.contract.online import field_name, timestamp_field
from feature_repo.contract.value_columns import (
    SCALARS,
    byte_lengths,
    encode_column,
    fixed,
    join,
    ticks,
    varints,
)
from feature_repo.contract.values import decode_varints

KEY_TYPES = ("Int32", "Int64", "String")
NUM_SLOTS = 16_384
"""Of a Redis Cluster."""

_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class HashCommands:
    """The commands that write one view's rows, and those that ask for the rows' times."""

    project: str
    view: str
    join_keys: Mapping[str, str]
    """Feast types of the columns that make the key, by name."""
    features: Mapping[str, str]
    """Feast types of the columns that are written, by name."""
    timestamp: str = "event_timestamp"
    """Column of the rows' times."""
    expire_s: int | None = None
    """Seconds after which Redis drops a key that is not written again."""

    @property
    def replies_per_row(self) -> int:
        """How many replies a row's commands have."""
        return 1 if self.expire_s is None else 2

    def keys(self, batch: pa.RecordBatch) -> pa.BinaryArray:
        """The Redis key of each row, in version 3 of Feast's serialisation.

        Raises:
            BadInput: a key is null or does not fit its type.
        """
        names = sorted(self.join_keys)
        head = struct.pack("<I", len(names))
        for name in names:
            text = name.encode()
            head += struct.pack("<II", SCALARS["String"], len(text)) + text
        parts: list[pa.BinaryArray | pa.Scalar] = [_bytes(head)]
        for name in names:
            parts += self._key_part(batch.column(name), name)
        return join(*parts, _bytes(self.project.encode()))

    def _key_part(self, column: pa.Array, name: str) -> list[pa.BinaryArray | pa.Scalar]:
        dtype = self.join_keys[name]
        if column.null_count:
            raise BadInput(
                f"{column.null_count} rows of view {self.view} have no {name}; a row of the "
                "online store needs one. Leave them out of the view's source."
            )
        if dtype == "String":
            texts = column.cast(pa.string()).cast(pa.binary())
            sizes = byte_lengths(texts).astype("<u4").view(np.uint8).reshape(-1, 4)
            return [_bytes(struct.pack("<I", SCALARS[dtype])), fixed(sizes), texts]
        try:
            numbers = ticks(column.cast(pa.int32()) if dtype == "Int32" else column)
        except pa.ArrowInvalid as error:
            raise BadInput(f"A {name} of view {self.view} is no {dtype}: {error}") from error
        little = numbers.astype("<i4" if dtype == "Int32" else "<i8")
        size = little.dtype.itemsize
        head = struct.pack("<II", SCALARS[dtype], size)
        return [_bytes(head), fixed(little.view(np.uint8).reshape(-1, size))]

    def times_us(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """The rows' times in epoch microseconds, [N]."""
        column = batch.column(self.timestamp)
        return ticks(column.cast(pa.timestamp("us", tz=column.type.tz), safe=False))

    def lookups(self, keys: pa.BinaryArray) -> pa.BinaryArray:
        """One ``HGET`` a key, of the time at which the view was last written."""
        field = timestamp_field(self.view)
        tail = b"\r\n$%d\r\n%b\r\n" % (len(field), field)
        return join(_headers(keys, b"*3\r\n$4\r\nHGET\r\n"), keys, _bytes(tail))

    def writes(self, keys: pa.BinaryArray, batch: pa.RecordBatch) -> pa.BinaryArray:
        """One ``HSET`` a row, and one ``EXPIRE`` if keys expire.

        Raises:
            BadInput: a value does not fit its feature's type.
        """
        head = b"*%d\r\n$4\r\nHSET\r\n" % (4 + 2 * len(self.features))
        pieces = [_headers(keys, head), keys]
        stamps = encode_times(self.times_us(batch))
        pieces += _field(timestamp_field(self.view), stamps)
        for name, dtype in self.features.items():
            pieces += _field(field_name(self.view, name), self._messages(batch, name, dtype))
        if self.expire_s is None:
            return join(*pieces, _bytes(b"\r\n"))
        seconds = str(self.expire_s).encode()
        tail = b"\r\n$%d\r\n%b\r\n" % (len(seconds), seconds)
        expire = _headers(keys, b"\r\n*3\r\n$6\r\nEXPIRE\r\n")
        return join(*pieces, expire, keys, _bytes(tail))

    def _messages(self, batch: pa.RecordBatch, name: str, dtype: str) -> pa.BinaryArray:
        try:
            return encode_column(batch.column(name), dtype)
        except BadInput as error:
            raise BadInput(f"Feature {name} of view {self.view}: {error}") from error


def _bytes(value: bytes) -> pa.Scalar:
    return pa.scalar(value, pa.binary())


def _field(name: bytes, messages: pa.BinaryArray) -> list[pa.BinaryArray | pa.Scalar]:
    before = b"\r\n$%d\r\n%b\r\n" % (len(name), name)
    return [_headers(messages, before), messages]


def _headers(values: pa.BinaryArray, before: bytes) -> pa.BinaryArray | pa.Scalar:
    """``before`` and the length line of each bulk string; one for all where all are as long."""
    lengths = byte_lengths(values)
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    if low == high:
        return _bytes(b"%b$%d\r\n" % (before, low))
    present = np.flatnonzero(np.bincount(lengths))
    places = np.zeros(high + 1, dtype=np.int32)
    places[present] = np.arange(len(present))
    lines = [b"%b$%d\r\n" % (before, length) for length in present]
    return pa.array(lines, pa.binary()).take(pa.array(places[lengths]))


def encode_times(times_us: npt.NDArray[np.int64]) -> pa.BinaryArray:
    """``google.protobuf.Timestamp`` messages of epoch microseconds; fields of zero are left out."""
    seconds, rest = np.divmod(times_us, _MICROSECONDS)
    messages = varints(seconds, b"\x08", seconds != 0)
    return join(messages, varints(rest * 1_000, b"\x10", rest != 0)) if rest.any() else messages


def decode_times(
    messages: Sequence[bytes | None],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Seconds and nanoseconds of ``google.protobuf.Timestamp`` messages; zeros of None."""
    seconds = np.zeros(len(messages), dtype=np.int64)
    nanos = np.zeros(len(messages), dtype=np.int64)
    packed = b"".join(filter(None, messages))
    ends = np.cumsum([len(message) if message else 0 for message in messages])
    # Each field is two varints: its tag, of one byte, and its value.
    places = np.flatnonzero(np.frombuffer(packed, dtype=np.uint8) < 0x80)[1::2]
    rows = np.searchsorted(ends, places, side="right")
    numbers = decode_varints(packed)
    tags, values = numbers[::2], numbers[1::2]
    for tag, column in ((0x08, seconds), (0x10, nanos)):
        column[rows[tags == tag]] = values[tags == tag]
    return seconds, nanos


def key_slots(keys: pa.BinaryArray) -> npt.NDArray[np.int64]:
    """The Redis Cluster slot of each key: CRC16 (XMODEM) of it, or of what ``{}`` encloses."""
    lengths = byte_lengths(keys)
    starts = np.cumsum(lengths) - lengths
    data = np.frombuffer(keys.buffers()[2], dtype=np.uint8)
    slots = np.empty(len(keys), dtype=np.int64)
    for length in np.flatnonzero(np.bincount(lengths)):
        rows = np.flatnonzero(lengths == length)
        slots[rows] = _crc16(data, starts[rows], int(length))
    braces = _contains(b"{", data, starts, lengths) & _contains(b"}", data, starts, lengths)
    for row in np.flatnonzero(braces):
        tag = np.frombuffer(_hash_tag(keys[row].as_py()), dtype=np.uint8)
        slots[row] = _crc16(tag, np.zeros(1, dtype=np.int64), len(tag))[0]
    return slots % NUM_SLOTS


def _contains(
    byte: bytes,
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    found = np.concatenate([[0], np.cumsum(data == byte[0])])
    return found[starts + lengths] > found[starts]  # type: ignore[no-any-return]


def _hash_tag(key: bytes) -> bytes:
    start = key.index(b"{") + 1
    end = key.find(b"}", start)
    return key[start:end] if end > start else key


def _crc_table() -> npt.NDArray[np.uint16]:
    values: npt.NDArray[Any] = np.arange(256, dtype=np.uint16) << 8
    for _ in range(8):
        values = (values << 1) ^ np.where(values & 0x8000, 0x1021, 0).astype(np.uint16)
    return values


_CRC_TABLE = _crc_table()


def _crc16(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], length: int
) -> npt.NDArray[Any]:
    """CRC16 of the ``length`` bytes from each of ``starts`` on."""
    crc: npt.NDArray[Any] = np.zeros(len(starts), dtype=np.uint16)
    for place in range(length):
        crc = (crc << 8) ^ _CRC_TABLE[(crc >> 8) ^ data[starts + place]]
    return crc
