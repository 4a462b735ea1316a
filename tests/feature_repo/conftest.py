"""A small shop that Feast knows, made once for all test processes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.config import JobConfig, load_config
from feature_repo.jobs.feast_repo import feast_environment, write_settings
from feature_repo.jobs.state import make_state
from tests.feature_repo.jobs.shops import day, purchase, write_shop


def shop_settings(root: Path) -> list[str]:
    """The overrides that name the shop in ``root``."""
    return ["data=parquet", "data.name=small_shop", f"data.root={root}"]


def feast_apply(dataset: Dataset, repo: Path) -> subprocess.CompletedProcess[str]:
    """Run Feast's own command line."""
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repo), "apply"]
    environment = {**os.environ, **feast_environment(dataset)}
    return subprocess.run(
        command, env=environment, cwd=dataset.root, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class AppliedShop:
    """A shop with features and a registry."""

    root: Path
    output: str
    """What ``feast apply`` said."""

    @property
    def dataset(self) -> Dataset:
        """The shop's data set."""
        return Dataset.load(self.root / "dataset.json")


@pytest.fixture(scope="session")
def applied_shop(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> AppliedShop:
    """Return a shop of 4 users, 6 items and 8 weeks; tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small_shop"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "applied.txt").exists():
            events = [
                purchase(user, 10 + (week * user + place) % 6, day(7 * week + user))
                for week in range(8)
                for user in range(1, 5)
                for place in range(2)
            ]
            dataset = write_shop(root, events)
            write_settings(dataset)
            make_state(load_config(JobConfig, shop_settings(root)))
            result = feast_apply(dataset, repository / "feature_repo")
            assert result.returncode == 0, result.stderr
            (root / "applied.txt").write_text(result.stdout, encoding="utf-8")
    return AppliedShop(root, (root / "applied.txt").read_text(encoding="utf-8"))
