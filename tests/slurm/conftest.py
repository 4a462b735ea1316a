"""A real SLURM for the tests of this folder, and a checkout as its jobs see it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.slurm.cluster import (
    REQUIRED,
    Cluster,
    missing_programs,
    require_slurm,
    running_cluster,
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return two nodes of this test process's own."""
    require_slurm(missing_programs(), os.environ.get(REQUIRED, ""))
    with (
        tempfile.TemporaryDirectory(prefix="shoprec-slurm-", ignore_cleanup_errors=True) as name,
        running_cluster(Path(name)) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def shop_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the small shop; tests must not change it."""
    return shop.make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    """Return a folder to submit from, which holds what the batch scripts look for."""
    for name in ("slurm", ".venv"):
        (tmp_path / name).symlink_to(repository / name)
    return tmp_path
