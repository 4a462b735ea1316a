"""Reading ahead: the next batches are made while the current one trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterator[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items, made by a thread that is at most ``depth`` items ahead.

    What making an item raises is raised where that item would have come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, items, None))
            yield item
