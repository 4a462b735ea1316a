"""Reading users' features while serving: connects when first needed, and again after a failure.

While the store is away, requests do not wait for it: after a failure it is left alone for a
moment, then tried by one request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import connect
from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.online import OnlineReader, UserRows
from feature_repo.contract.schema import Schema

log = logging.getLogger(__name__)


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
        pause_s: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._project = project
        self._schema = schema
        self._user_id = user_id
        self._url = url
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reader: OnlineReader | None = None
        self._away_until = float("-inf")

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """The features of ``user_ids`` as of ``now``, in one round trip.

        Raises:
            StoreUnavailable: the store does not answer, or did not a moment ago.
        """
        try:
            return self._connected().read(user_ids, now)
        except StoreUnavailable as error:
            self._leave_alone(error)
            raise

    def _connected(self) -> OnlineReader:
        reader = self._reader
        if reader is not None:
            return reader
        with self._lock:
            if self._reader is None:
                if self._monotonic() < self._away_until:
                    raise StoreUnavailable("The online store did not answer a moment ago.")
                self._reader = self._connect()
            return self._reader

    def _connect(self) -> OnlineReader:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = connect(self._url, self._timeout_s)
        # One more try finds a connection that the server closed; redis-py's own pauses between
        # its tries would take seconds.
        client.set_retry(Retry(NoBackoff(), 1))
        return OnlineReader(client, self._project, self._schema, self._user_id)

    def _leave_alone(self, error: StoreUnavailable) -> None:
        with self._lock:
            now = self._monotonic()
            if now >= self._away_until:
                log.warning("%s Answers are popular items until it is back.", error)
                self._away_until = now + self._pause_s
            self._reader = None
