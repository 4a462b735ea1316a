"""``slurm/train.sbatch`` on two nodes: one run over both, interrupted, preempted and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.tables import Tables
from tests.retrieval import shop
from tests.slurm.cluster import Cluster, wait_until
from tests.trainer.shop import SMALL

EPOCHS, STEPS_PER_EPOCH = 10, 25


def settings(dataset: Dataset, runs: str, *overrides: str) -> list[str]:
    return [
        *SMALL,
        *shop.overrides(dataset, Path(runs)),
        *("trainer.log_every=1", f"trainer.epochs={EPOCHS}", "sharding=row_wise"),
        "sharding.row_wise_from=10",
        *overrides,
    ]


def records(folder: Path, kind: str = "train") -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def output(checkout: Path, job: str) -> str:
    return (checkout / f"shoprec-{job}.sbatch.out").read_text()


def only_run(checkout: Path, runs: str) -> Path:
    (found,) = (checkout / runs).iterdir()
    return found


def has_recorded(checkout: Path, runs: str, step: int) -> bool:
    found = list((checkout / runs).glob("*/metrics.jsonl"))
    return bool(found) and f'"step": {step},' in found[0].read_text()


def interrupt(cluster: Cluster, job: str, checkout: Path) -> None:
    """Send what SLURM sends before the limit, as soon as the batch script has begun."""
    wait_until((checkout / "runs" / ".slurm").exists, f"job {job} has not begun", why=str)
    cluster.run("scancel", "--signal=USR1", "--batch", job)


@pytest.mark.slow
def test_an_interrupted_and_preempted_job_ends_like_one_that_was_left_alone(
    cluster: Cluster, checkout: Path, shop_dataset: Dataset
) -> None:
    script = ["--nodes=2", "slurm/train.sbatch"]
    job = cluster.submit(checkout, *script, *settings(shop_dataset, "interrupted"))
    interrupt(cluster, job, checkout)  # long before the run is opened
    cluster.wait_for_attempt(job, 1)
    assert 0 < len(records(only_run(checkout, "interrupted"))) < STEPS_PER_EPOCH
    wait_until(lambda: has_recorded(checkout, "interrupted", 26), "step 26 is not recorded", 60)
    urgent = cluster.submit(checkout, "--partition=urgent", "--nodes=2", "--wrap=true")
    assert cluster.wait_for_end(urgent)["JobState"] == "COMPLETED"
    cluster.wait_for_attempt(job, 2)
    preempted_after = len(records(only_run(checkout, "interrupted")))
    ended = cluster.wait_for_end(job)

    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), output(checkout, job)
    assert output(checkout, job).count("Stopped with a checkpoint; requeued.") == 2
    assert 26 <= preempted_after < EPOCHS * STEPS_PER_EPOCH

    alone = cluster.submit(checkout, *script, *settings(shop_dataset, "alone"))
    assert cluster.wait_for_end(alone)["ExitCode"] == "0:0", output(checkout, alone)
    require_equal(only_run(checkout, "interrupted"), only_run(checkout, "alone"))
    assert not list(checkout.glob("*/*/STOP"))
    assert not list((checkout / "runs" / ".slurm").iterdir())


def require_equal(first: Path, second: Path) -> None:
    """Two runs with the same settings, losses and models."""
    assert first.name == second.name
    plan = read_json(next((first / "checkpoints").glob("step-*")) / "plan.json")
    assert plan["item_id"]["ranks"] == [0, 1]
    losses = [[(each["step"], each["loss"]) for each in records(run)] for run in (first, second)]
    assert [step for step, _ in losses[0]] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert losses[0] == losses[1]
    assert read_json(first / "result.json") == read_json(second / "result.json")
    tables = [Tables.load(run / "two_tower" / "tables").tables for run in (first, second)]
    for name, table in tables[0].items():
        np.testing.assert_array_equal(table.values, tables[1][name].values, name)
    vectors = [np.load(run / "two_tower" / "item_vectors.npy") for run in (first, second)]
    np.testing.assert_array_equal(*vectors)


@pytest.mark.slow
def test_a_job_that_fails_ends_with_its_code_and_is_not_started_again(
    cluster: Cluster, checkout: Path, shop_dataset: Dataset
) -> None:
    overrides = settings(shop_dataset, "failing", "cutoff=t2")
    job = cluster.submit(checkout, "slurm/train.sbatch", *overrides)
    interrupt(cluster, job, checkout)
    ended = cluster.wait_for_end(job)

    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "1:0")
    assert ended["Restarts"] == "0"
    assert "retrieval_v1-sessions-t2" in output(checkout, job)


@pytest.mark.slow
def test_a_stop_by_hand_ends_the_job_with_a_checkpoint(
    cluster: Cluster, checkout: Path, shop_dataset: Dataset
) -> None:
    overrides = settings(shop_dataset, "stopped", "trainer.epochs=1000")
    job = cluster.submit(checkout, "slurm/train.sbatch", *overrides)
    wait_until(lambda: has_recorded(checkout, "stopped", 30), "step 30 is not recorded", 60)
    (only_run(checkout, "stopped") / "STOP").touch()
    ended = cluster.wait_for_end(job)

    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0")
    assert ended["Restarts"] == "0"
    assert list((only_run(checkout, "stopped") / "checkpoints").glob("step-*"))


def test_a_cancelled_job_is_not_started_again(
    cluster: Cluster, checkout: Path, shop_dataset: Dataset
) -> None:
    job = cluster.submit(checkout, "slurm/train.sbatch", *settings(shop_dataset, "cancelled"))
    interrupt(cluster, job, checkout)
    cluster.run("scancel", job)
    ended = cluster.wait_for_end(job)

    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert "requeued" not in output(checkout, job)
