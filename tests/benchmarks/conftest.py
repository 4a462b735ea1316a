"""What the benchmarks' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trainer.distributed import Device, Process, process_group


@pytest.fixture
def process() -> Iterator[Process]:
    """Return a process group of this process alone."""
    with process_group(Device.cpu) as process:
        yield process
