"""``python -m trainer --multirun hydra/launcher=slurm``: a job for each combination."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.slurm.cluster import Cluster, wait_until
from tests.trainer.shop import SMALL
from trainer.run_file import RunFile

EPOCHS = 10


def command(dataset: Dataset, folder: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "trainer", "--multirun", "hydra/launcher=slurm"),
        *("hydra.launcher.time_min=5", f"hydra.sweep.dir={folder / 'sweep'}"),
        *SMALL,
        *shop.overrides(dataset, folder / "runs"),
        *("trainer.log_every=1", f"trainer.epochs={EPOCHS}"),
        *overrides,
    ]


@pytest.mark.slow
def test_every_combination_is_a_job_and_an_interrupted_one_goes_on(
    cluster: Cluster, tmp_path: Path, repository: Path, shop_dataset: Dataset
) -> None:
    sweep = subprocess.Popen(
        command(shop_dataset, tmp_path, "model.dim=4,8"),
        cwd=repository,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run_file = tmp_path / "sweep" / "0.run"
        wait_until(run_file.exists, "no run was opened", 90)
        folder = RunFile.read(run_file).folder
        assert folder is not None
        wait_until(lambda: has_recorded(folder, 3), "nothing was trained", 60)
        (job,) = cluster.run("squeue", "--noheader", "--array", "--format=%i").split()[:1]
        first = f"{job.partition('_')[0]}_0"
        cluster.run("scancel", "--signal=USR2", first)  # as SLURM does before the time limit
        said, errors = sweep.communicate(timeout=150)
    finally:
        sweep.kill()

    assert sweep.returncode == 0, said + errors
    assert f"[1/2] model.dim=4: SLURM job {first}" in said
    runs = {RunFile.read(tmp_path / "sweep" / f"{number}.run").folder for number in (0, 1)}
    assert len(runs) == 2
    for run in runs:
        assert run is not None
        assert f"finished: {run}" in said
        assert run.name in said.splitlines()[-2] + said.splitlines()[-3]
        assert read_json(run / "result.json") == {"epochs": float(EPOCHS)}
        assert steps(run) == list(range(1, EPOCHS * 25 + 1))
    assert cluster.job(first)["Restarts"] == "1"
    assert [read_json(run / "run.json")["model"]["dim"] for run in sorted_by_dim(runs)] == [4, 8]


def sorted_by_dim(runs: set[Path | None]) -> list[Path]:
    found = [run for run in runs if run is not None]
    return sorted(found, key=lambda run: int(read_json(run / "run.json")["model"]["dim"]))


def steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["kind"] == "train"]


def has_recorded(run: Path, step: int) -> bool:
    path = run / "metrics.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text()
