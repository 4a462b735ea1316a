"""A retriever bundle of the small shop, made once by the trainer's own commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.trainer.shop import fit_bundle


@pytest.fixture(scope="session")
def shop_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the small shop; tests must not change it."""
    return shop.make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def bundle(shop_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a retriever bundle fitted at t1; tests must not change it."""
    return fit_bundle(shop_dataset, tmp_path_factory.mktemp("runs"))
