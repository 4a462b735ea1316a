"""Checkpoints: one made by two processes is loaded by one, and the other way round."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.trainer.shop import SMALL
from trainer import checkpoints
from trainer.__main__ import main
from trainer.distributed import Process


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for name in ("step-9", "step-100", "step-200.partial", "best-7", "best-9"):
        (tmp_path / name).mkdir()

    assert checkpoints.latest(tmp_path) == tmp_path / "step-100"
    assert checkpoints.latest(tmp_path, checkpoints.BEST) == tmp_path / "best-9"
    assert checkpoints.latest(tmp_path / "step-9") is None


def test_old_and_partial_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in ("step-9", "step-100", "step-200.partial", "best-7", "best-9"):
        (tmp_path / name).mkdir()

    checkpoints.prune(tmp_path, 1, Process(0, 1, 0, torch.device("cpu")))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-9", "step-100"]


def settings(dataset: Dataset, runs: Path) -> list[str]:
    """A run of four steps with a checkpoint each two."""
    return [
        *SMALL,
        *shop.overrides(dataset, runs),
        "trainer.checkpoint_every=2",
        "trainer.keep_checkpoints=9",
        "trainer.max_steps=4",
        "trainer.epochs=1",
        "sharding.row_wise_from=30",
    ]


def test_one_process_goes_on_where_two_stopped(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(shop_dataset, tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "trainer", *chosen]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert two.returncode == 0, two.stderr
    folder = Path(two.stdout.splitlines()[-1])
    trained = np.load(folder / "two_tower" / "tables" / "item_id.npy")
    (folder / "result.json").unlink()

    assert main(chosen) == 0

    assert Path(capsys.readouterr().out.splitlines()[-1]) == folder
    assert read_json(folder / "result.json") == {"epochs": 1.0}
    loaded = np.load(folder / "two_tower" / "tables" / "item_id.npy")
    assert (loaded == trained).all()
