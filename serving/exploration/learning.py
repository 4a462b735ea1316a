"""Rewards of explored lists, from the feedback log as it grows.

Of the workers on one log, one reads it. Its place is kept in the store; what is read again counts
no more, see ``serving.exploration.store``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path

from feature_repo.contract.event_log import Line, LogReader, events_of, log_id
from serving.background import is_mine
from serving.exploration.store import Answer, SumStore

HOLD_S = 5.0
"""After this time feedback that came before the list that it is about, of another machine say, is
looked at again."""
MOST_HELD = 50_000
"""Such events; the oldest are given up."""
AT_ONCE = 500
"""Events whose lists are asked for together."""


class Rewards:
    """Learns from one feedback log; used by one thread."""

    def __init__(
        self,
        path: Path,
        store: SumStore,
        count: Callable[..., None] = lambda **outcomes: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            path: of the log.
            store: where sums are added to.
            count: is told what became of events.
            clock: monotonic seconds.
        """
        self._path, self._store, self._count, self._clock = path, store, count, clock
        self._lock: TextIOWrapper | None = None
        self._reader: LogReader | None = None
        self._name = ""
        self._held: deque[tuple[float, Line]] = deque(maxlen=MOST_HELD)
        self._todo: list[Line] = []

    def learn(self) -> None:
        """Take over what was appended since, if this process is the one that does.

        Raises:
            StoreUnavailable: the store does not answer; what was not learned waits.
        """
        if not self._path.exists() or not self._mine():
            return
        reader = self._reader or self._begin()
        self._again()
        while True:
            self._finish()
            data = reader.read()
            if not data:
                return
            self._todo = [event for event in events_of(data) if event.get("recommendation_id")]

    def close(self) -> None:
        """Let another process read."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _mine(self) -> bool:
        if self._lock is None:
            lock = self._path.with_name(f"{self._path.stem}.explore.lock").open("w")
            if not is_mine(lock):
                lock.close()
                return False
            self._lock = lock
        return True

    def _begin(self) -> LogReader:
        self._name = log_id(self._path)
        segment, offset = self._store.place(self._name) or (1 << 40, 0)  # the newest file
        self._reader = LogReader(self._path, segment, offset)
        return self._reader

    def _finish(self) -> None:
        """Learn what was read, and keep the place."""
        if not self._todo:
            return
        early = self._learn(self._todo)
        assert self._reader is not None
        self._store.set_place(self._name, self._reader.segment, self._reader.offset)
        self._todo = []
        self._held.extend((self._clock() + HOLD_S, event) for event in early)

    def _again(self) -> None:
        """Look at events again that came before their lists."""
        due = [event for at, event in self._held if at <= self._clock()]
        if due:
            self._learn(due)
            for _ in due:
                self._held.popleft()

    def _learn(self, events: Sequence[Line]) -> list[Line]:
        """Add the rewards of events; return those of lists that nobody knows."""
        unknown = []
        for first in range(0, len(events), AT_ONCE):
            some = events[first : first + AT_ONCE]
            answers = self._store.answers({str(event["recommendation_id"]) for event in some})
            for event in some:
                answer = answers.get(str(event["recommendation_id"]))
                if answer is None:
                    unknown.append(event)
                else:
                    self._take(event, answer)
        return unknown

    def _take(self, event: Line, answer: Answer) -> None:
        reward = answer.rewards.get(str(event.get("event_type")), 0.0)
        item_id = event.get("item_id")
        if reward > 0 and isinstance(item_id, int | str) and str(item_id) in answer.shown:
            new = self._store.reward(answer, item_id, reward)
            self._count(**{"rewarded" if new else "repeated": 1})
