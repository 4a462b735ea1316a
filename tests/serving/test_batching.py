from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batching import Batcher
from serving.problems import TooManyRequests
from serving.threads import Threads, TooLate

pytestmark = pytest.mark.anyio


class Doubling:
    """Doubles numbers, and keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.gate.wait(5)
        return [2 * number for number in numbers]


async def test_what_waits_meanwhile_is_answered_together() -> None:
    doubling = Doubling()
    batcher = Batcher(Threads(1, 100), doubling, most=4)
    asked = [asyncio.create_task(batcher.run(number)) for number in range(7)]
    await asyncio.sleep(0.05)
    doubling.gate.set()

    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10, 12]
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_request_alone_waits_for_nobody() -> None:
    doubling = Doubling()
    doubling.gate.set()

    assert await Batcher(Threads(1, 4), doubling).run(3, within_s=5) == 6


async def test_who_gave_up_is_not_answered_and_the_others_are() -> None:
    doubling = Doubling()
    batcher = Batcher(Threads(1, 100), doubling)
    first = asyncio.create_task(batcher.run(1))
    await asyncio.sleep(0.01)
    with pytest.raises(TooLate):
        await batcher.run(2, within_s=0.01)
    other = asyncio.create_task(batcher.run(3))
    await asyncio.sleep(0.01)
    doubling.gate.set()

    assert [await first, await other] == [2, 6]
    assert doubling.batches == [[1], [3]]


async def test_more_than_may_wait_are_refused_until_there_is_room() -> None:
    doubling = Doubling()
    batcher = Batcher(Threads(1, 2), doubling)
    asked = [asyncio.create_task(batcher.run(number)) for number in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(TooManyRequests):
        await batcher.run(9)
    doubling.gate.set()
    await asyncio.gather(*asked)

    assert await batcher.run(9) == 18


async def test_all_of_a_batch_are_told_that_it_failed_and_the_next_one_is_answered() -> None:
    def answer(numbers: Sequence[int]) -> list[float]:
        return [1 / number for number in numbers]

    batcher = Batcher(Threads(1, 100), answer)
    first = asyncio.create_task(batcher.run(1))
    failing = [asyncio.create_task(batcher.run(number)) for number in (0, 2)]

    assert await first == 1
    assert [type(found) for found in await asyncio.gather(*failing, return_exceptions=True)] == [
        ZeroDivisionError,
        ZeroDivisionError,
    ]
    assert await batcher.run(4) == 0.25
