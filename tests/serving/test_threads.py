from __future__ import annotations

import asyncio
import threading

import pytest

from serving.problems import TooManyRequests
from serving.threads import Threads, TooLate

pytestmark = pytest.mark.anyio


async def test_work_returns_what_it_computes_and_raises_what_it_raises() -> None:
    threads = Threads(1, 4)

    assert await threads.run(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_more_than_may_wait_is_refused_until_there_is_room() -> None:
    told: list[int] = []
    threads, gate = Threads(1, 2, told.append), threading.Event()
    first, second = (asyncio.create_task(threads.run(gate.wait)) for _ in range(2))
    await asyncio.sleep(0)

    with pytest.raises(TooManyRequests, match="2 requests are being answered or wait"):
        await threads.run(lambda: 5)
    gate.set()
    await asyncio.gather(first, second)

    assert await threads.run(lambda: 5) == 5
    assert max(told) == 2


async def test_work_that_is_not_done_in_time_is_given_up() -> None:
    threads, gate, ran = Threads(1, 4), threading.Event(), threading.Event()

    await threads.run(lambda: None)  # from here on there is a thread that begins at once
    with pytest.raises(TooLate):
        await threads.run(gate.wait, 0.1)
    with pytest.raises(TooLate):  # it waits for the thread, and is dropped
        await threads.run(ran.set, 0.01)
    gate.set()

    assert await threads.run(lambda: 5) == 5
    assert not ran.is_set()
