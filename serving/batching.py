"""Requests that wait are answered together: one pass through the models costs little more for many.

There is no timer. A thread that is free takes what waits by then, so that a lone request is
answered at once, and the fuller the server is, the larger its batches are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from serving.threads import Threads, TooLate

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 32
"""Requests of a batch; larger ones make everybody wait, and save little more."""


class Batcher(Generic[Q, A]):
    """Answers requests in batches; used by one event loop."""

    def __init__(
        self, threads: Threads, answer: Callable[[Sequence[Q]], Sequence[A]], most: int = MOST
    ) -> None:
        """Start nothing yet.

        Args:
            threads: where batches are answered.
            answer: the answers to a batch, in its order; is called in one of the threads.
            most: requests of a batch.
        """
        self._threads, self._answer, self._most = threads, answer, most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, query: Q, within_s: float | None = None) -> A:
        """The answer to one request.

        Args:
            query: the request.
            within_s: seconds to wait for it; None: until it is there.

        Raises:
            TooManyRequests: as many as may wait are waiting.
            TooLate: it is not there in time.
        """
        self._threads.enter()
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._threads.leave())
        self._waiting.append((query, future))
        self._begin()
        done, _ = await asyncio.wait({future}, timeout=within_s)
        if not done:
            future.cancel()
            raise TooLate
        return future.result()

    def _begin(self) -> None:
        """Give what waits to threads that are free."""
        while self._waiting and len(self._running) < self._threads.size:
            batch: list[tuple[Q, asyncio.Future[A]]] = []
            while self._waiting and len(batch) < self._most:
                query, future = self._waiting.popleft()
                if not future.done():
                    batch.append((query, future))
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()

    async def _run(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._threads.execute(
                partial(self._answer, [query for query, _ in batch])
            )
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is waited for)
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
