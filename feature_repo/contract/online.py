"""Reading users' features from the online store: Feast's Redis layout, one round trip.

Feast documents the layout as public: the key is the serialised entity key followed by the
project, a hash whose fields are murmur3_32("view:feature") in little-endian bytes, with
``_ts:<view>`` beside them; values are ``ValueProto`` messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, Protocol

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import Later, Rows
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput, StoreUnavailable
from feature_repo.contract.schema import Entity, Feature, Schema
from feature_repo.contract.values import (
    NULL_TIMESTAMP,
    decode_number_lists,
    decode_timestamp_s,
    decode_value,
)
from feature_repo.contract.vocabulary import id_arrow_type

Ints = npt.NDArray[np.int64]

_STRING, _INT64 = 2, 4
"""``ValueType`` numbers of the entity key's value."""


class RedisLike(Protocol):
    """The part of a redis client that a reader uses."""

    def pipeline(self, transaction: bool = ...) -> Any:
        """A pipeline of commands sent in one round trip."""


def entity_key(join_key: str, value: int | str, project: str) -> bytes:
    """The Redis key of one entity, in version 3 of Feast's serialisation.

    Raises:
        BadInput: the value is neither a 64-bit integer nor a string.
    """
    name = join_key.encode()
    head = struct.pack("<I", 1) + struct.pack("<I", _STRING)
    head += struct.pack("<I", len(name)) + name
    return head + _entity_value(value) + project.encode()


def _entity_value(value: int | str) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return struct.pack("<I", _STRING) + struct.pack("<I", len(text)) + text
    if isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise BadInput(f"An id is a 64-bit integer or a string; got {value!r}.")
    return struct.pack("<I", _INT64) + struct.pack("<I", 8) + struct.pack("<q", value)


def field_name(view: str, feature: str) -> bytes:
    """The hash field of one feature."""
    return struct.pack("<i", mmh3.hash(f"{view}:{feature}"))


def timestamp_field(view: str) -> bytes:
    """The hash field of the time of a view's last write."""
    return f"_ts:{view}".encode()


class Presence(Enum):
    """What the store has of a view for one user."""

    PRESENT = "present"
    EXPIRED = "expired"
    """It was written, but longer ago than the view's time to live."""
    MISSING = "missing"
    """It was never written, or Redis has dropped it."""


@dataclass(frozen=True)
class UserRows:
    """Features of B users, in the order asked for."""

    rows: Rows
    """``user_id``, ``event_timestamp`` (now) and the features; null where there is none."""
    found: list[bool]
    """Whether the store knows anything of the user."""
    presence: dict[str, list[Presence]] = field(default_factory=dict)
    """View -> what the store has of it for each user; a null of a present view was written so."""

    @property
    def table(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.rows.table


class OnlineReader:
    """Reads the user features of one schema for any number of users in one round trip."""

    def __init__(self, client: RedisLike, project: str, schema: Schema, user_id: IdType) -> None:
        self._client = client
        self._project = project
        self._features = schema.of(Entity.USER)
        self._kinds = [arrow_type(feature) for feature in self._features]
        self._views = sorted({feature.view for feature in self._features})
        self._ttl_s = {feature.view: feature.ttl_s for feature in self._features}
        self._user_id = user_id
        self._fields = [field_name(f.view, f.name) for f in self._features]
        self._fields += [timestamp_field(view) for view in self._views]

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """The features of ``user_ids`` as of ``now``; values past their time to live are null.

        Raises:
            BadInput: an id is neither a 64-bit integer nor a string.
            StoreUnavailable: the store does not answer.
        """
        replies = self._fetch([entity_key("user_id", value, self._project) for value in user_ids])
        presence = {view: self._presence(view, replies, now) for view in self._views}
        ids = pa.array(user_ids, id_arrow_type(self._user_id))
        times = pa.array([now] * len(user_ids), pa.timestamp("us", tz="UTC"))
        whole: dict[str, pa.Array] = {"user_id": ids, "event_timestamp": times}
        made: dict[Hashable, Any] = {("column", name): array for name, array in whole.items()}
        columns = self._columns(replies, presence, made)

        def table() -> pa.Table:
            return pa.table({**whole, **{name: make() for name, make in columns.items()}})

        rows = Rows(Later([*whole, *columns], len(user_ids), table), made)
        found = [any(value is not None for value in reply) for reply in replies]
        return UserRows(rows, found, presence)

    def _fetch(self, keys: list[bytes]) -> list[list[bytes | None]]:
        from redis.exceptions import RedisClusterException, RedisError

        try:
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, self._fields)
            return pipeline.execute()  # type: ignore[no-any-return]
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable(f"The online store does not answer: {error}") from error

    def _presence(
        self, view: str, replies: list[list[bytes | None]], now: datetime
    ) -> list[Presence]:
        places = [place for place, f in enumerate(self._features) if f.view == view]
        stamp = len(self._features) + self._views.index(view)
        ttl_s = self._ttl_s[view]
        oldest = float("-inf") if ttl_s is None else now.timestamp() - ttl_s
        found = []
        for reply in replies:
            written = reply[stamp]
            if written is None and all(reply[place] is None for place in places):
                found.append(Presence.MISSING)
            elif ttl_s is None or (written is not None and decode_timestamp_s(written) >= oldest):
                found.append(Presence.PRESENT)
            else:
                found.append(Presence.EXPIRED)
        return found

    def _columns(
        self,
        replies: list[list[bytes | None]],
        presence: dict[str, list[Presence]],
        made: dict[Hashable, Any],
    ) -> dict[str, Callable[[], pa.Array]]:
        """What makes the columns; what of them is at hand as arrays goes into ``made``."""
        columns: dict[str, Callable[[], pa.Array]] = {}
        for place, feature in enumerate(self._features):
            messages = [
                reply[place] if state is Presence.PRESENT else None
                for reply, state in zip(replies, presence[feature.view], strict=True)
            ]
            name, kind = feature.name, self._kinds[place]
            if pa.types.is_list(kind) and kind.value_type in _NUMBERS:
                lists = _Lists.of(messages, kind)
                made["list", name] = lists.values, lists.offsets
                made["filled", name] = np.diff(lists.offsets) > 0
                columns[name] = lists.column
                continue
            values = [decode_value(each) for each in messages]
            columns[name] = partial(_column, values, kind)
            if kind in _NUMBERS:
                missing = [np.nan if value is None else value for value in values]
                made["numbers", name] = np.array(missing, np.float64)
            if kind == pa.string():
                made["texts", name] = values
            if not pa.types.is_list(kind) and not pa.types.is_timestamp(kind):
                made["filled", name] = np.array([value is not None for value in values], np.bool_)
        return columns


_NUMBERS = {pa.int32(), pa.int64(), pa.float32(), pa.float64()}
"""Types whose lists are decoded for all users at once."""


@dataclass(frozen=True)
class _Lists:
    """A column of lists of numbers."""

    kind: pa.DataType
    values: npt.NDArray[Any]
    offsets: Ints
    known: list[bool]
    """[B] whether there is a list."""

    @staticmethod
    def of(messages: list[bytes | None], kind: pa.DataType) -> _Lists:
        values, lengths, known = decode_number_lists(messages)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        return _Lists(kind, values.astype(kind.value_type.to_pandas_dtype()), offsets, known)

    def column(self) -> pa.Array:
        missing = pa.array([not each for each in self.known], pa.bool_())
        offsets = pa.array(self.offsets, pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(self.values), mask=missing)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    element = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_timestamp(element):
        values = [_seconds(value) for value in values]
    return pa.array(values, kind)


def _seconds(value: Any) -> Any:
    """Epoch seconds, one or a list, without Feast's mark for none."""
    if isinstance(value, np.ndarray):
        return [_seconds(each) for each in value.tolist()]
    return None if value == NULL_TIMESTAMP else value


def arrow_type(feature: Feature) -> pa.DataType:
    """The Arrow type of a feature from its Feast type's name, such as ``Array(Int64)``.

    Raises:
        BadInput: the type has no column type here.
    """
    name = feature.dtype
    if name.startswith("Array(") and name.endswith(")"):
        return pa.list_(_scalar_type(name[6:-1]))
    return _scalar_type(name)


def _scalar_type(name: str) -> pa.DataType:
    types = {
        "Int64": pa.int64(),
        "Int32": pa.int32(),
        "Float32": pa.float32(),
        "Float64": pa.float64(),
        "String": pa.string(),
        "Bool": pa.bool_(),
        "Bytes": pa.binary(),
        "UnixTimestamp": pa.timestamp("s", tz="UTC"),
    }
    if name not in types:
        raise BadInput(f"A feature of Feast type {name} cannot be read; use {sorted(types)}.")
    return types[name]
