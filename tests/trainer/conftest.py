"""What the trainer's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feature_repo.contract.dataset import Dataset
from ranking.inputs import InputEncoder
from tests.retrieval import shop
from tests.trainer import ranker_shop
from trainer.distributed import Device, Process, process_group
from trainer.ranker_inputs import encode_windows
from trainer.ranker_rows import Rows


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Return a process group of this process alone."""
    with process_group(Device.cpu) as process:
        yield process


@pytest.fixture(scope="session")
def shop_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the small shop; tests must not change it."""
    return shop.make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def ranker_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the data set of the shop that rankers are tested on."""
    return ranker_shop.make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoded(ranker_dataset: Dataset) -> tuple[InputEncoder, Rows]:
    """Return one window's rows as Wide & Deep reads them."""
    window = ranker_shop.make_window()
    return encode_windows([window], ranker_shop.NETWORK, ranker_dataset)
