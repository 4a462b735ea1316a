"""Reading users' features while serving: connects when first needed, and again after failures.

A store that fails several times in a row is left alone (a circuit breaker: Nygard, "Release It!",
2007): requests go on without it at once, and a thread asks it now and then until it answers.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.online import OnlineReader, UserRows
from feature_repo.contract.schema import Schema

log = logging.getLogger(__name__)

ANYBODY: dict[IdType, int | str] = {IdType.INT64: 0, IdType.STRING: ""}
"""Whose features are asked for to see whether the store answers."""


class UserFeatures(Protocol):
    """Where the features of users come from."""

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """The features of ``user_ids`` as of ``now``.

        Raises:
            StoreUnavailable: the store does not answer.
        """


class OnlineStore:
    """The online store of one shop: ``REDIS_URL``, or the embedded server."""

    def __init__(
        self,
        project: str,
        schema: Schema,
        user_id: IdType,
        *,
        url: str | None = None,
        timeout_s: float = 0.25,
        failures: int = 3,
        probe_s: float = 0.5,
    ) -> None:
        """Connect to nothing yet.

        Args:
            project: Feast project.
            schema: the features that are read.
            user_id: type of ids.
            url: of Redis; None: as the environment says.
            timeout_s: most time that a request waits for the store.
            failures: so many in a row, and it is left alone.
            probe_s: time between two questions of the thread that waits for it.
        """
        self._project, self._schema, self._user_id = project, schema, user_id
        self._url, self._timeout_s = url, timeout_s
        self._most_failures, self._probe_s = failures, probe_s
        self._lock = threading.Lock()
        self._reader: OnlineReader | None = None
        self._failures = 0
        self._away_since: float | None = None

    @property
    def away(self) -> bool:
        """Whether it is left alone."""
        return self._away_since is not None

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """The features of ``user_ids`` as of ``now``, in one round trip.

        Raises:
            StoreUnavailable: the store does not answer, or did not of late.
        """
        if self.away:
            raise StoreUnavailable("The online store did not answer of late; it is waited for.")
        try:
            found = self._connected().read(user_ids, now)
        except StoreUnavailable as error:
            self._failed(error)
            raise
        self._failures = 0
        return found

    def _connected(self) -> OnlineReader:
        with self._lock:
            if self._reader is None:
                self._reader = self._connect()
            return self._reader

    def _connect(self) -> OnlineReader:
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError
        from redis.retry import Retry

        client = connect(self._url, self._timeout_s)
        # One more try finds a connection that the server closed; redis-py's own pauses between
        # its tries would take seconds, and a second try after a timeout would double it.
        client.set_retry(Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)))
        return OnlineReader(client, self._project, self._schema, self._user_id)

    def _failed(self, error: StoreUnavailable) -> None:
        with self._lock:
            self._failures += 1
            if self._failures < self._most_failures or self.away:
                return
            self._away_since = time.monotonic()
        log.warning("%s Answers are popular items until it is back.", error)
        waiting = threading.Thread(
            target=_wait_for, args=(weakref.ref(self), self._probe_s), daemon=True
        )
        waiting.start()

    def probe(self) -> bool:
        """Ask a store that is left alone; whether it answers again."""
        try:
            reader = self._connect()
            reader.read([ANYBODY[self._user_id]], datetime.now(UTC))
        except StoreUnavailable:
            return False
        with self._lock:
            away_s = time.monotonic() - (self._away_since or time.monotonic())
            self._reader, self._failures, self._away_since = reader, 0, None
        log.warning("The online store answers again, after %.1f s.", away_s)
        return True


def _wait_for(store: weakref.ref[OnlineStore], pause_s: float) -> None:
    """Ask until the store answers, or nobody needs it any more."""
    while True:
        time.sleep(pause_s)
        found = store()
        try:
            if found is None or found.probe():
                return
        except Exception:
            log.exception("The online store could not be asked; it is asked again.")
        del found
