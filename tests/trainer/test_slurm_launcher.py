"""What sweeps ask SLURM for; ``tests/slurm`` runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit
from submitit.slurm.slurm import _make_sbatch_string

from trainer.run_file import RunFile
from trainer.slurm_launcher import SlurmConfig, Training, ended, exit_code


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Leave the handler of SIGTERM as it was: a training takes it over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def script(config: SlurmConfig) -> list[str]:
    return _make_sbatch_string("command", "folder", **config.parameters()).splitlines()


def test_settings_become_options_of_sbatch() -> None:
    config = SlurmConfig(
        partition="gpu",
        account="shop",
        time_min=90,
        cpus_per_task=8,
        gpus_per_node=1,
        mem_gb=1.5,
        setup=["module load cuda"],
        options={"reservation": "night"},
    )

    lines = script(config)

    for option in (
        *("partition=gpu", "account=shop", "time=90", "cpus-per-task=8", "gpus-per-node=1"),
        *("mem=1536M", "reservation=night", "requeue", "signal=USR2@120"),
    ):
        assert f"#SBATCH --{option}" in lines
    assert lines.index("module load cuda") < lines.index("export SUBMITIT_EXECUTOR=slurm")


def test_what_is_not_set_is_left_to_slurm() -> None:
    options = " ".join(script(SlurmConfig()))

    for name in ("partition", "account", "qos", "constraint", "gpus", "mem"):
        assert f"--{name}" not in options


def test_submitit_takes_the_settings(tmp_path: Path) -> None:
    if not submitit.SlurmExecutor.affinity() > 0:
        pytest.skip("submitit looks for srun, and SLURM is not installed.")
    executor = submitit.SlurmExecutor(tmp_path)

    executor.update_parameters(**SlurmConfig(mem_gb=2, gpus_per_node=1).parameters())

    assert executor.parameters["mem"] == "2048M"


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(75)", 75), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_an_exit_code_can_be_asked_for_again_and_again(code: str, expected: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", code])
    while exit_code(process.pid) is None:
        time.sleep(0.01)

    assert [exit_code(process.pid) for _ in range(2)] == [expected, expected]
    assert process.wait() == expected


def test_a_run_that_has_not_begun_is_requeued_as_it_is(tmp_path: Path) -> None:
    training = Training(["seed=1"], tmp_path / "0.run")

    again = training.checkpoint()

    assert again is not None
    assert isinstance(again.function, Training)
    assert again.function.overrides == ["seed=1"]
    assert again.function.run_file == tmp_path / "0.run"


def test_a_failed_run_says_so_and_tells_no_folder(tmp_path: Path) -> None:
    training = Training(["experiment=nothing"], tmp_path / "0.run")

    with pytest.raises(RuntimeError, match="experiment=nothing ended with exit code 1"):
        training()

    assert RunFile.read(tmp_path / "0.run").folder is None


def test_a_slurm_that_does_not_answer_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert ended(["1"]) == set()
