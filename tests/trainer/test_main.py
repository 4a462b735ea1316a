"""``python -m trainer``, by itself and under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json, read_table
from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.trainer.shop import SMALL
from trainer.__main__ import main
from trainer.two_tower import judge


def arguments(dataset: Dataset, runs: Path, *overrides: str) -> list[str]:
    return [*SMALL, *shop.overrides(dataset, runs), *overrides]


def test_help_lists_experiments_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert "complete_journey/two_tower" in shown
    assert "  trainer.epochs=" in shown
    assert "  model.temperature=" in shown
    assert "sharding.device=auto" in shown


def test_without_arguments_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("Train a model")


def test_a_mistake_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=two_tower", "cutoff=t1", "trainer.epoch=2"]) == 1

    said = capsys.readouterr().err
    assert "epoch" in said
    assert "Traceback" not in said


def test_the_last_line_is_the_runs_folder(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(shop_dataset, tmp_path, "trainer.epochs=1")) == 0

    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert read_json(folder / "result.json") == {"epochs": 1.0}
    assert (folder / "two_tower" / "item_vectors.npy").exists()


def test_two_processes_train_one_model(shop_dataset: Dataset, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "trainer"),
        *arguments(shop_dataset, tmp_path, "trainer.epochs=4", "trainer.batch_size=8"),
        *("sharding.row_wise_from=30", "validate=true"),
    ]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.splitlines()[-1])
    plan = read_json(next((folder / "checkpoints").glob("step-*")) / "plan.json")
    assert plan["item_id"]["sharding_type"] == "row_wise"
    assert plan["item_id"]["ranks"] == [0, 1]
    table = np.load(folder / "two_tower" / "tables" / "item_id.npy")
    assert table.shape == (shop.NUM_ITEMS + 1, 8)
    assert (np.abs(table).sum(axis=1) > 0).all()
    judged = read_table(shop_dataset.sets / "ranking_v1-users-t1" / "users.parquet")
    assert judge(folder / "two_tower", judged, 56.0, k=12)["recall_all_12"] > 0.55
