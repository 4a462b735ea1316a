"""Threads that compute answers beside the event loop, and a bound on what waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.problems import TooManyRequests

T = TypeVar("T")


class TooLate(Exception):
    """The time is over before the work is done; it may still be going on."""


class Threads:
    """A few threads with a bounded queue."""

    def __init__(
        self, size: int, most: int, tell: Callable[[int], None] = lambda number: None
    ) -> None:
        """Start none yet.

        Args:
            size: number of threads.
            most: pieces of work that run or wait.
            tell: is called with the number of those, whenever it changes.
        """
        self.size = size
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="answer")
        self._most, self._tell = most, tell
        self._lock = threading.Lock()
        self._inside = 0

    async def run(self, work: Callable[[], T], within_s: float | None = None) -> T:
        """What ``work`` returns.

        Args:
            work: a piece of work.
            within_s: seconds to wait for it; None: until it is done.

        Raises:
            TooManyRequests: as many as may wait are waiting.
            TooLate: it is not done in time; work that did not begin is dropped.
        """
        self.enter()
        future = self._pool.submit(work)
        future.add_done_callback(lambda done: self.leave())
        waiting = asyncio.wrap_future(future)
        done, _ = await asyncio.wait({waiting}, timeout=within_s)
        if not done:
            future.cancel()  # at once, unless it runs; through ``waiting`` a thread could be faster
            waiting.cancel()
            raise TooLate
        return waiting.result()

    def execute(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What ``work`` returns, of requests that have entered."""
        return asyncio.wrap_future(self._pool.submit(work))

    def enter(self) -> None:
        """Count a request as waiting, until it leaves.

        Raises:
            TooManyRequests: as many as may wait are waiting.
        """
        with self._lock:
            if self._inside >= self._most:
                raise TooManyRequests(
                    f"{self._inside} requests are being answered or wait, which is the most that "
                    "may; try again in a moment."
                )
            self._inside += 1
            self._tell(self._inside)

    def leave(self) -> None:
        """A request is answered, or given up."""
        with self._lock:
            self._inside -= 1
            self._tell(self._inside)

    def close(self) -> None:
        """Take no more work, and drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)
