"""Users' rows in the online store, read and written as Feast lays them out, with their journals.

A row is written only where nobody else has written it since it was read: a script in the store
compares the times of its views and its journal (https://redis.io/docs/latest/develop/programmability/
eval-intro/), so that any number of writers, and a materialisation beside them, lose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.activity import Activity
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.hash_commands import decode_times, encode_times
from feature_repo.contract.journal import (
    ACTIVITY,
    HISTORY,
    SEEN,
    VIEWS,
    Journal,
    StoredUser,
    UserRow,
)
from feature_repo.contract.marks import SECOND_US
from feature_repo.contract.online import entity_key, field_name, timestamp_field
from feature_repo.contract.state import Id, UserState
from feature_repo.contract.value_columns import encode_column
from feature_repo.contract.values import decode_number_lists, decode_value

JOURNAL_FIELD = b"_journal"
"""Field of a user's hash; Feast reads fields by name, and passes it over."""

_SCRIPT = b"""\
local now = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
for place = 1, 4 do
  if (now[place] or '') ~= ARGV[4 + place] then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 9))
return 1
"""


def feature_types(item_id: IdType) -> dict[str, dict[str, str]]:
    """View -> feature -> Feast type, of what purchases change."""
    ids = "Array(Int64)" if item_id is IdType.INT64 else "Array(String)"
    return {
        HISTORY: {
            "history_item_id": ids,
            "history_count": "Array(Int64)",
            "history_weight": "Array(Float32)",
            "history_first_s": "Array(Int64)",
            "history_last_s": "Array(Int64)",
            "history_gap_sq": "Array(Float32)",
            "history_gap_last": "Array(Float32)",
        },
        ACTIVITY: {
            "events_total": "Int64",
            "sessions_total": "Int64",
            "events_decayed": "Float32",
            "sessions_decayed": "Float32",
            "spend_decayed": "Float32",
            "discount_rate": "Float32",
            "first_event_s": "Int64",
            "last_event_s": "Int64",
        },
        SEEN: {"seen_item_id": ids},
    }


_ARROW = {
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Array(Int64)": pa.list_(pa.int64()),
    "Array(Float32)": pa.list_(pa.float32()),
    "Array(String)": pa.list_(pa.string()),
}


@dataclass(frozen=True)
class ReadUser:
    """A user as the store had it."""

    user: StoredUser
    before: tuple[bytes, ...]
    """The times of the views and the journal, as they were; empty where there was none."""


@dataclass
class UserStates:
    """The users of one shop."""

    client: Any
    """Of Redis, or of a Redis Cluster."""
    project: str
    item_id: IdType
    _types: dict[str, dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._types = feature_types(self.item_id)
        self._guards = [*(timestamp_field(view) for view in VIEWS), JOURNAL_FIELD]
        self._names = [(view, name) for view, types in self._types.items() for name in types]
        self._fields = [*self._guards, *(field_name(view, name) for view, name in self._names)]

    def read(self, user_ids: Sequence[Id]) -> list[ReadUser]:
        """What the store has of users, in one round trip.

        Raises:
            StoreUnavailable: it does not answer.
        """
        pipeline = self.client.pipeline(transaction=False)
        for user_id in user_ids:
            pipeline.hmget(self.key(user_id), self._fields)
        return self._decoded(answered(pipeline.execute))

    def key(self, user_id: Id) -> bytes:
        """The Redis key of a user."""
        return entity_key("user_id", user_id, self.project)

    def _decoded(self, replies: Sequence[Sequence[bytes | None]]) -> list[ReadUser]:
        """Users from their fields; decoded a column at a time."""
        places = range(len(self._guards), len(self._fields))
        columns = {
            name: _column([reply[place] for reply in replies], self._types[view][name])
            for place, (view, name) in zip(places, self._names, strict=True)
        }
        stamps = [_stamps_us([reply[place] for reply in replies]) for place in range(len(VIEWS))]
        found = []
        for place, reply in enumerate(replies):
            row = {name: column[place] for name, column in columns.items()}
            times = {v: us[place] for v, us in zip(VIEWS, stamps, strict=True)}
            guards = reply[: len(self._guards)]
            kept = guards[-1]
            user = StoredUser(
                UserRow(
                    UserState.from_row(row),
                    Activity.from_row(row),
                    tuple(row["seen_item_id"] or ()),
                ),
                {view: us for view, us in times.items() if us is not None},
                Journal() if kept is None else Journal.from_json(json.loads(kept)),
            )
            found.append(ReadUser(user, tuple(one or b"" for one in guards)))
        return found

    def write(self, users: Sequence[tuple[Id, ReadUser, StoredUser]]) -> list[bool]:
        """Write what became of users since they were read, in one round trip.

        Returns:
            Whether each was written; it was not where somebody else has meanwhile.

        Raises:
            StoreUnavailable: the store does not answer; some may be written.
        """
        if not users:
            return []
        messages = self._encoded([after for _, _, after in users])
        times = _stamp_messages([after.stamps_us for _, _, after in users])
        pipeline = self.client.pipeline(transaction=False)
        for (user_id, read, after), values, stamps in zip(users, messages, times, strict=True):
            arguments = [*self._guards, *read.before, *self._written(after, values, stamps)]
            # By this name pipelines of a cluster take it too.
            pipeline.execute_command("EVAL", _SCRIPT, 1, self.key(user_id), *arguments)
        return [reply == 1 for reply in answered(pipeline.execute)]

    def _written(
        self, after: StoredUser, values: Mapping[str, bytes], stamps: Mapping[str, bytes]
    ) -> list[bytes]:
        """Fields and values of the views that have a time, and of the journal."""
        found: list[bytes] = []
        for view, stamp in stamps.items():
            found += [timestamp_field(view), stamp]
            for name in self._types[view]:
                found += [field_name(view, name), values[name]]
        journal = json.dumps(after.journal.to_json(), separators=(",", ":"), ensure_ascii=False)
        return [*found, JOURNAL_FIELD, journal.encode()]

    def _encoded(self, users: Sequence[StoredUser]) -> list[dict[str, bytes]]:
        """Feature -> message, of each user; encoded a column at a time."""
        rows = [_columns(one.row) for one in users]
        found: list[dict[str, bytes]] = [{} for _ in users]
        for types in self._types.values():
            for name, dtype in types.items():
                column = pa.array([row[name] for row in rows], _ARROW[dtype])
                for one, message in zip(
                    found, encode_column(column, dtype).to_pylist(), strict=True
                ):
                    one[name] = message
        return found


def _column(messages: Sequence[bytes | None], dtype: str) -> list[Any]:
    """The Python values of one feature of many users; None where there is none."""
    if dtype in ("Array(Int64)", "Array(Float32)"):
        values, lengths, known = decode_number_lists(messages)
        flat, ends = values.tolist(), np.cumsum(lengths).tolist()
        return [
            flat[end - length : end] if there else None
            for end, length, there in zip(ends, lengths.tolist(), known, strict=True)
        ]
    return [decode_value(message) for message in messages]


def _stamps_us(messages: Sequence[bytes | None]) -> list[int | None]:
    """Epoch microseconds of a view's times."""
    seconds, nanos = decode_times(messages)
    times = (seconds * SECOND_US + nanos // 1_000).tolist()
    return [None if m is None else us for m, us in zip(messages, times, strict=True)]


def _stamp_messages(users: Sequence[Mapping[str, int]]) -> list[dict[str, bytes]]:
    """The times of views as messages, of each user; of views that have one."""
    flat = [stamps[view] for stamps in users for view in VIEWS if view in stamps]
    messages = iter(encode_times(np.array(flat, np.int64)).to_pylist())
    return [{view: next(messages) for view in VIEWS if view in stamps} for stamps in users]


def _columns(row: UserRow) -> dict[str, Any]:
    activity = row.activity
    empty = dict.fromkeys(Activity.__dataclass_fields__)
    return {
        **row.history.to_row(),
        **(empty if activity is None else activity.to_row()),
        "seen_item_id": list(row.seen),
    }


def answered(ask: Any) -> Any:
    """The replies of a pipeline, or of any command.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    from redis.exceptions import RedisClusterException, RedisError

    try:
        return ask()
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(f"The online store does not answer: {error}") from error
