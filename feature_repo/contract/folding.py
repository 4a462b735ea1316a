"""Passing a log's lines on to the shop's stream, and folding the stream into users' rows.

Both are done in steps, by one caller at a time for each log; any number of machines may fold.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from feature_repo.contract.errors import BadInput
from feature_repo.contract.event_log import LogReader, log_id
from feature_repo.contract.event_stream import Entry, EventStream
from feature_repo.contract.journal import Rules, fold_purchases
from feature_repo.contract.marks import Marks
from feature_repo.contract.online_state import UserStates
from feature_repo.contract.purchases import Purchase
from feature_repo.contract.state import Id

log = logging.getLogger(__name__)

COUNT = 500
"""Entries, and about as many lines, that are dealt with at a time."""
READ_BYTES = 1 << 17
TRIES = 20
"""Of writing a user's row beside other writers, before the entry is left for later."""


class Forwarder:
    """Puts what a log takes into the stream: each line once, in the order of the log."""

    def __init__(self, path: Path, stream: EventStream) -> None:
        """Read nothing yet.

        Args:
            path: of the log.
            stream: of its shop.
        """
        self._path, self._stream = path, stream
        self._name: str | None = None
        self._reader = LogReader(path)

    def step(self) -> int:
        """Pass on the next lines; how many.

        Raises:
            StoreUnavailable: the stream does not take them; the next call tries again.
        """
        if self._name is None:
            self._name = log_id(self._path)
        # Asked every time: a store that lost its data since is given the lines again.
        place = self._stream.place(self._name) or self._start(self._name)
        reader = LogReader(self._path, *place)
        data = reader.read(READ_BYTES)
        if data:
            lines = data.splitlines()
            self._stream.append(self._name, reader.segment, lines, reader.offset)
            return len(lines)
        return 0

    def _start(self, name: str) -> tuple[int, int]:
        """After what a compaction before the last one took, if that is known."""
        done = self._stream.marks().done
        return (done[sorted(done)[-2]].get(name, 0) + 1, 0) if len(done) > 1 else (0, 0)


class Folder:
    """Folds entries of the stream into users' rows."""

    def __init__(
        self,
        stream: EventStream,
        users: UserStates,
        rules: Rules,
        consumer: str,
        is_known: Callable[[Sequence[Id]], Sequence[bool]] | None = None,
    ) -> None:
        """Fold nothing yet.

        Args:
            stream: of the shop.
            users: the rows.
            rules: of the state.
            consumer: name of this machine in the consumer group.
            is_known: whether the models know users, who then should have a materialised row.
        """
        self._stream, self._users, self._rules = stream, users, rules
        self._consumer, self._is_known = consumer, is_known
        self._joined = False
        self._again = True
        self._marks = Marks()

    def step(self) -> int:
        """Fold the next entries; how many.

        Raises:
            StoreUnavailable: the store does not answer; the next call tries again.
        """
        if not self._joined:
            self._stream.join()
            self._joined = True
        self._follow_marks()
        entries = self._stream.take(self._consumer, COUNT, again=self._again)
        if self._again and not entries:
            self._again = False
            entries = self._stream.take(self._consumer, COUNT)
        if not entries:
            return 0
        self._again = not self.fold(entries)
        return len(entries)

    def reclaim(self) -> int:
        """Fold what another consumer took long ago and did not finish; how many."""
        entries = self._stream.claim(self._consumer, COUNT) if self._joined else []
        self.fold(entries)
        return len(entries)

    def _follow_marks(self) -> None:
        """After a materialisation, fold again what its rows may lack; forget what they have."""
        before, self._marks = self._marks, self._stream.marks()
        if before.done != self._marks.done:
            self._stream.trim(self._marks)
        if before.materialised != self._marks.materialised:
            for entries in self._stream.every():
                self._put([entry for entry in entries if entry.line is not None])

    def fold(self, entries: Sequence[Entry]) -> bool:
        """Fold entries and acknowledge them; whether all of them could be."""
        left = self._put(entries)
        self._stream.acknowledge([one for one in entries if _user_of(one) not in left])
        return not left

    def _put(self, entries: Sequence[Entry]) -> set[Id]:
        """Fold entries; the users whom others kept writing."""
        found: dict[Id, list[Purchase]] = defaultdict(list)
        for entry in entries:
            purchase = _purchase_of(entry)
            if purchase is not None and entry.line is not None:
                found[entry.line["user_id"]].append(purchase)
        left = set(found)
        for _ in range(TRIES):
            if not left:
                break
            left -= self._written({user: found[user] for user in left})
        if left:
            log.warning("%d users were written by others all the time; later again.", len(left))
        return left

    def _written(self, purchases: dict[Id, list[Purchase]]) -> set[Id]:
        """Fold each user's purchases; the users for whom it is done."""
        ids = list(purchases)
        read = self._users.read(ids)
        known = [False] * len(ids) if self._is_known is None else self._is_known(ids)
        changed = []
        for user, one, knows in zip(ids, read, known, strict=True):
            more = purchases[user]
            after = fold_purchases(one.user, more, self._marks, self._rules, known=knows)
            if after is not one.user:
                changed.append((user, one, after))
        written = self._users.write(changed)
        failed = {user for (user, _, _), ok in zip(changed, written, strict=True) if not ok}
        return set(ids) - failed


def _user_of(entry: Entry) -> Id | None:
    return None if entry.line is None else entry.line.get("user_id")


def _purchase_of(entry: Entry) -> Purchase | None:
    """The purchase of an entry; None of other events, and of what no server wrote."""
    if entry.line is None:
        return None
    try:
        return Purchase.of(entry.line, entry.log, entry.segment)
    except (BadInput, KeyError, TypeError, ValueError) as error:
        log.warning("An event of the stream cannot be read, and is passed over: %r.", error)
        return None
