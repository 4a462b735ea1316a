"""One run on 1, 2 and 4 processes: the same losses, and a way back from being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.tables import Tables
from tests.retrieval import shop
from tests.trainer.shop import SMALL, fit_bundle
from trainer.sets import TrainingSet

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
STEPS = 50


def command(dataset: Dataset, runs: Path, world_size: int, *overrides: str) -> list[str]:
    """A run of two epochs of 25 steps, with a checkpoint now and then."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [
        *torchrun,
        f"--nproc-per-node={world_size}",
        *("-m", "trainer", *SMALL, *shop.overrides(dataset, runs)),
        "trainer.log_every=1",
        "trainer.checkpoint_every=7",
        "sharding.row_wise_from=10",
        *overrides,
    ]


def train(dataset: Dataset, runs: Path, world_size: int, *overrides: str) -> Path:
    """The finished run's folder."""
    return finished(command(dataset, runs, world_size, *overrides))


def finished(arguments: list[str]) -> Path:
    """The folder that a run named at its end."""
    found = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.splitlines()[-1])


def losses(folder: Path) -> list[float]:
    """The loss of each step; each is recorded once."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    return [found[step] for step in range(1, len(found) + 1)]


@pytest.fixture(scope="module")
def alone(shop_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return train(shop_dataset, tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_has_the_losses_of_one(
    shop_dataset: Dataset, alone: Path, tmp_path: Path, world_size: int
) -> None:
    folder = train(shop_dataset, tmp_path, world_size)

    groups = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1").group_sizes()
    assert len(set(groups.tolist())) > 1  # uneven, and no process waits for another
    assert folder.name == alone.name
    assert len(losses(alone)) >= STEPS
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)
    assert losses(alone)[-1] < losses(alone)[0] - 0.1
    mine, theirs = (Tables.load(run / "two_tower" / "tables").tables for run in (folder, alone))
    for name, table in theirs.items():
        np.testing.assert_allclose(mine[name].values, table.values, atol=1e-4)
    vectors = [np.load(run / "two_tower" / "item_vectors.npy") for run in (folder, alone)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)


def test_rankers_too_have_the_losses_of_one(shop_dataset: Dataset, tmp_path: Path) -> None:
    bundle = fit_bundle(shop_dataset, tmp_path / "retriever")
    folders = []
    for world_size in (1, 3):
        runs = tmp_path / f"{world_size}"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        folders.append(
            finished(
                [
                    *(*torchrun, f"--nproc-per-node={world_size}", "-m", "trainer"),
                    *("experiment=wide_deep", "cutoff=t2", f"retriever={bundle}"),
                    *shop.overrides(shop_dataset, runs),
                    *("model.network.dropout=0", "model.network.hidden=[16]", "model.negatives=9"),
                    *("model.network.crosses=[]", "model.network.without=[user_id]"),
                    *("model.listwise=1", "trainer.batch_size=4", "trainer.epochs=2"),
                    *("trainer.log_every=1", "sharding.row_wise_from=10", "sharding.device=cpu"),
                ]
            )
        )

    assert losses(folders[1]) == pytest.approx(losses(folders[0]), abs=1e-5)
    assert len(losses(folders[0])) >= 10


@pytest.mark.parametrize(
    "model",
    [
        ["model=mf", "model.loss=bpr", "model.num_negatives=3"],
        ["model=lightgcn", "model.layers=2", "model.num_negatives=10"],
        ["model=graphsage", *SMALL[7:], "model.graph.neighbours=5", "model.graph.sampled=3"],
    ],
    ids=["mf", "lightgcn", "graphsage"],
)
def test_other_candidate_models_have_the_losses_of_one(
    model: list[str], shop_dataset: Dataset, tmp_path: Path
) -> None:
    width = [] if model[0] == "model=graphsage" else ["model.dim=8"]
    folders = []
    for world_size in (1, 2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        folders.append(
            finished(
                [
                    *(*torchrun, f"--nproc-per-node={world_size}", "-m", "trainer", *model, *width),
                    *("cutoff=t1", "trainer.batch_size=16", "trainer.epochs=1"),
                    *("trainer.log_every=1", "sharding.row_wise_from=10", "sharding.device=cpu"),
                    *shop.overrides(shop_dataset, tmp_path / f"{world_size}"),
                ]
            )
        )

    assert losses(folders[1]) == pytest.approx(losses(folders[0]), abs=1e-5)
    assert len(losses(folders[0])) >= 10


def test_half_precision_tables_differ_by_noise_alone(
    shop_dataset: Dataset, alone: Path, tmp_path: Path
) -> None:
    folder = train(shop_dataset, tmp_path, 2, "optimizer.table_dtype=fp16")

    assert losses(folder) == pytest.approx(losses(alone), abs=0.02)
    assert losses(folder) != losses(alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_whose_process_is_killed_goes_on_as_if_nothing_had_happened(
    shop_dataset: Dataset, alone: Path, tmp_path: Path, victim: int
) -> None:
    started = subprocess.Popen(
        command(shop_dataset, tmp_path, 2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    folder = tmp_path / alone.name
    wait_for_step(folder, 20 + 11 * victim)
    os.kill(workers(started.pid)[victim], signal.SIGKILL)
    assert started.wait(timeout=120) != 0
    assert not (folder / "result.json").exists()

    assert train(shop_dataset, tmp_path, 2) == folder

    assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)
    assert read_json(folder / "result.json") == read_json(alone / "result.json")
    assert not list((folder / "checkpoints").glob("*.partial"))


def wait_for_step(folder: Path, step: int) -> None:
    """Until a run has recorded a step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = (
            (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
        )
        if f'"step": {step},' in lines:
            return
        time.sleep(0.005)
    raise AssertionError(f"{folder} did not reach step {step}.")


def workers(parent: int) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        fields = dict(
            line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
        )
        if int(fields["PPid"]) == parent:
            environment = (status.parent / "environ").read_bytes().split(b"\0")
            ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
            if ranks:
                found[int(ranks[0])] = int(status.parent.name)
    return [found[rank] for rank in sorted(found)]
