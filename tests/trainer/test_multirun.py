"""``python -m trainer --multirun``: which runs a sweep is made of, and how they are trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from tests.retrieval import shop
from tests.trainer.shop import SMALL
from trainer.__main__ import main
from trainer.multirun import combinations, make_jobs
from trainer.run_file import RunFile


def settings(dataset: Dataset, folder: Path, *overrides: str) -> list[str]:
    sweep = f"hydra.sweep.dir={folder / 'sweep'}"
    return [*SMALL, *shop.overrides(dataset, folder / "runs"), sweep, *overrides]


def test_a_sweep_is_every_combination_the_last_key_first() -> None:
    found = combinations(["experiment=two_tower", "model.dim=4,8", "seed=range(0,3)"])

    assert found == [
        ["experiment=two_tower", f"model.dim={dim}", f"seed={seed}"]
        for dim in (4, 8)
        for seed in (0, 1, 2)
    ]


def test_lists_and_quoted_texts_are_one_value() -> None:
    (only,) = combinations(["model.hidden=[16,8]", "data.root='/a,b'"])

    assert only == ["model.hidden=[16,8]", "data.root='/a,b'"]


def test_jobs_name_what_they_differ_in_and_keep_nothing_of_hydras(
    shop_dataset: Dataset, tmp_path: Path
) -> None:
    given = settings(shop_dataset, tmp_path, "hydra/launcher=slurm", "model.dim=4,8", "seed=1,2")
    jobs = make_jobs(combinations(given), tmp_path / "sweep")

    swept = [(f"model.dim={dim}", f"seed={seed}") for dim in (4, 8) for seed in (1, 2)]
    assert [job.swept for job in jobs] == swept
    assert [job.run_file.name for job in jobs] == ["0.run", "1.run", "2.run", "3.run"]
    assert not any("hydra" in text for job in jobs for text in job.overrides)


def test_two_jobs_that_are_one_run_are_refused(shop_dataset: Dataset, tmp_path: Path) -> None:
    given = settings(shop_dataset, tmp_path, "trainer.log_every=5,6")

    with pytest.raises(ConfigError, match=r"log_every=5 and trainer\.log_every=6 are the same run"):
        make_jobs(combinations(given), tmp_path / "sweep")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.dim=4,30", "model.dim must be a multiple of 4 above zero; got 30"),
        ("model.dimm=4,8", "dimm"),
        ("model.dim=4,,8", "model.dim=4,,8"),
        ("seed=interval(0,1)", "does not support sweep type"),
        ("hydra/launcher=other", "hydra/launcher/other"),
        ("hydra.launcher.partition=gpu", "partition"),
        ("hydra/launcher=slurm hydra.launcher.time_min=0", "time_min must be above zero; got 0"),
        ("hydra/launcher=slurm hydra.launcher.gpus_per_node=8", "slurm/train.sbatch"),
        ("hydra/launcher=slurm hydra.launcher.partitions=gpu", "partitions"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    shop_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    said: str,
) -> None:
    given = settings(shop_dataset, tmp_path, *override.split())

    assert main(["--multirun", *given]) == 1

    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not (tmp_path / "runs").exists()


def test_without_slurm_its_launcher_says_so(
    shop_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given = settings(shop_dataset, tmp_path, "hydra/launcher=slurm", "seed=1,2")

    assert main(["--multirun", *given]) == 1

    assert "there is no sbatch in PATH" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_are_trained_one_after_the_other_and_a_failed_one_ends_nothing(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(shop_dataset, tmp_path, "trainer.epochs=1", "cutoff=t2,t1", "validate=true")

    assert main(["--multirun", *given]) == 1

    shown = capsys.readouterr().out
    told = RunFile.read(tmp_path / "sweep" / "1.run").folder
    assert told is not None
    assert not (tmp_path / "sweep" / "0.run").exists()
    assert "[1/2] cutoff=t2: failed" in shown
    assert f"[2/2] cutoff=t1: finished: {told}" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.split()[-1:] == [told.name]]
    result = read_json(told / "result.json")
    assert row == ["2", "t1", *(f"{result[name]:.4g}" for name in sorted(result)), told.name]
