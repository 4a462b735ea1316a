"""The stream of a shop's feedback in Redis, and what is noted beside it.

Each machine passes the lines of its log on to the stream, and notes in the same transaction how
far it is, so that a line enters the stream once whenever a machine dies. A consumer group shares
the entries out; what a consumer took and did not acknowledge is taken by others after a while
(https://redis.io/docs/latest/develop/data-types/streams/).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feature_repo.contract.event_log import Line, events_of
from feature_repo.contract.marks import Marks
from feature_repo.contract.online_state import answered

GROUP = "fold"
FORSAKEN_MS = 30_000
"""An entry that a consumer took so long ago is taken by another."""
MARKS_KEPT = 100
"""Compactions whose marks are remembered."""
_PAGE = 1_000


@dataclass(frozen=True)
class Entry:
    """One line of a log in the stream."""

    id: bytes
    log: str
    segment: int
    line: Line | None
    """None where it is no event."""


class EventStream:
    """One shop's stream."""

    def __init__(self, client: Any, project: str) -> None:
        """Ask for nothing yet."""
        self._client = client
        # What braces enclose names the slot of a Redis Cluster: both keys are on one node.
        self.key = f"shoprec:{{{project}}}:events"
        self.notes = f"shoprec:{{{project}}}:feedback"

    def marks(self) -> Marks:
        """What was compacted and materialised."""
        found = answered(lambda: self._client.hgetall(self.notes))
        done = {
            int(name[5:]): json.loads(value)
            for name, value in found.items()
            if name.startswith(b"done:")
        }
        begun = int(found.get(b"begun", 0))
        return Marks(begun, done, int(found.get(b"materialised", 0)))

    def begin_compaction(self, number: int) -> None:
        """Note that events from now on are in no compaction up to this one, as far as one knows."""
        answered(lambda: self._client.hset(self.notes, "begun", number))

    def finish_compaction(self, number: int, logs: Mapping[str, int]) -> None:
        """Note up to which segment of each log a compaction went."""
        old = [n for n in self.marks().done if n <= number - MARKS_KEPT]

        def note() -> None:
            self._client.hset(self.notes, f"done:{number}", json.dumps(dict(logs)))
            if old:
                self._client.hdel(self.notes, *(f"done:{n}" for n in old))

        answered(note)

    def materialised(self) -> None:
        """Note that rows of users were written by a materialisation, where feedback is folded."""

        def note() -> None:
            if self._client.exists(self.notes):
                self._client.hincrby(self.notes, "materialised", 1)

        answered(note)

    def place(self, log: str) -> tuple[int, int] | None:
        """Segment and offset up to which a log's lines are in the stream; None: none is."""
        found = answered(lambda: self._client.hget(self.notes, f"log:{log}"))
        if found is None:
            return None
        segment, _, offset = found.decode().partition(":")
        return int(segment), int(offset)

    def append(self, log: str, segment: int, lines: Sequence[bytes], offset: int) -> None:
        """Add lines of a segment, which then is in the stream up to ``offset``."""

        def add() -> None:
            pipeline = self._client.pipeline(transaction=True)
            for line in lines:
                fields: Any = {b"log": log.encode(), b"segment": segment, b"line": line}
                pipeline.xadd(self.key, fields)
            pipeline.hset(self.notes, f"log:{log}", f"{segment}:{offset}")
            pipeline.execute()

        answered(add)

    def join(self) -> None:
        """Make the consumer group, if there is none."""
        from redis.exceptions import ResponseError

        def create() -> None:
            try:
                self._client.xgroup_create(self.key, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

        answered(create)

    def take(self, consumer: str, count: int, *, again: bool = False) -> list[Entry]:
        """The next entries for a consumer; ``again``: those that it did not acknowledge."""
        since = "0" if again else ">"
        found = answered(
            lambda: self._client.xreadgroup(GROUP, consumer, {self.key: since}, count=count)
        )
        streams = found.items() if isinstance(found, dict) else found or []
        return [entry for _, page in streams for entry in _entries(_flat(page))]

    def claim(self, consumer: str, count: int) -> list[Entry]:
        """Entries that another consumer took long ago and did not acknowledge."""
        found = answered(
            lambda: self._client.xautoclaim(
                self.key, GROUP, consumer, min_idle_time=FORSAKEN_MS, count=count
            )
        )
        return _entries(found[1])

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """These entries are folded."""
        if entries:
            answered(lambda: self._client.xack(self.key, GROUP, *(one.id for one in entries)))

    def every(self) -> Iterator[list[Entry]]:
        """All entries that were not removed, oldest first, a page at a time."""
        since = b"-"
        while page := _entries(
            answered(lambda: self._client.xrange(self.key, min=since, count=_PAGE))  # noqa: B023
        ):
            yield page
            since = b"(" + page[-1].id

    def trim(self, marks: Marks) -> int:
        """Remove the oldest entries that the compaction before the last one took; how many."""
        if len(marks.done) < 2:
            return 0
        logs = marks.done[sorted(marks.done)[-2]]
        removed = 0
        for page in self.every():
            keep = next((one for one in page if logs.get(one.log, 0) < one.segment), None)
            upto = page[-1].id if keep is None else keep.id
            removed += answered(
                lambda: self._client.xtrim(self.key, minid=upto, approximate=False)  # noqa: B023
            )
            if keep is not None:
                break
        return removed


def _flat(page: Any) -> Any:
    """Entries as RESP2 and RESP3 clients give them."""
    return page[0] if page and isinstance(page[0], list) else page


def _entries(page: Any) -> list[Entry]:
    return [_entry(one[0], one[1]) for one in page if one[1]]


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    line = next(events_of(fields.get(b"line", b"")), None)
    log, segment = fields.get(b"log", b"").decode(), int(fields.get(b"segment", 0))
    return Entry(entry_id, log, segment, line)
