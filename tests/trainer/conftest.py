"""What the trainer's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from trainer.distributed import Device, Process, process_group


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Return a process group of this process alone."""
    with process_group(Device.cpu) as process:
        yield process


@pytest.fixture(scope="session")
def shop_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the small shop; tests must not change it."""
    return shop.make_shop(tmp_path_factory.mktemp("shop"))
