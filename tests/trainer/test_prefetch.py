"""Reading ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from trainer.prefetch import prefetched


def test_items_come_in_their_order() -> None:
    assert list(prefetched(iter(range(1, 50)))) == list(range(1, 50))
    assert list(prefetched(iter(()))) == []


def test_an_item_is_made_while_the_one_before_is_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    ahead = prefetched(items())
    assert next(ahead) == 1
    assert made.wait(timeout=10)
    assert next(ahead) == 2


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("row group 2 of users.parquet")

    ahead = prefetched(items())

    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row group 2"):
        next(ahead)


def test_closing_ends_the_thread() -> None:
    ahead = prefetched(iter(range(1, 1000)))
    next(ahead)
    ahead.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
