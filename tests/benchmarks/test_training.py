"""The benchmark of training on a tiny shop: its peers are the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._breakdown import table_bytes
from benchmarks.training import Config, Peer, Row, compare, make_shop, run_config, write_encoder
from feature_repo.contract.encoding import Bag
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, TableConfig
from trainer.loop import Trainer
from trainer.model_config import TwoTowerModelConfig
from trainer.runs import Run
from trainer.sets import SERVICE, TrainingSet
from trainer.sharding import Load
from trainer.sharding_config import ShardingConfig
from trainer.step import StepInputs
from trainer.two_tower import TwoTowerTask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config(
        users=400,
        items=300,
        dim=8,
        batches=[64],
        histories=[6],
        sessions=2_000,
        seconds=0.5,
        rounds=1,
        learn=30,
        scale=[],
        device="cpu",
        engines=["shoprec", "sparse"],
        folder=str(tmp_path_factory.mktemp("benchmark")),
    )


@pytest.mark.parametrize("sparse", [True, False])
def test_a_peer_has_the_trainers_loss_and_gradients(
    config: Config, process: Process, tmp_path: Path, sparse: bool
) -> None:
    data = str(make_shop(config, config.users, 6))
    row = Row("shoprec", 400, 300, 8, 64, 6, "fp32", "cpu", 1.0, 0, data, 0.1, 0.01)
    settings = run_config(row)
    assert isinstance(settings.model, TwoTowerModelConfig)
    dataset = settings.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", "t1")
    write_encoder(tmp_path, sessions, dataset, row)
    task = TwoTowerTask(settings, settings.model, dataset, sessions, process, tmp_path)
    peer = Peer(task, sparse, 0.01, process.device)
    for name, module in peer.tables.items():
        table = task.tables.rows_of(name, 0, module.num_embeddings)
        module.weight.data.copy_(torch.from_numpy(table))
    inputs = task.prepare(next(task.batches(0, 0)), 0)

    theirs = peer.loss(inputs)
    theirs.backward()
    expected = [p.grad.clone() for p in task.dense.parameters() if p.grad is not None]
    task.dense.zero_grad()
    ours = our_loss(task, inputs, settings_run(tmp_path, process), row)

    assert theirs.item() == pytest.approx(ours.item(), rel=1e-5)
    for parameter, gradient in zip(task.dense.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    grown = peer.tables["user_id"].weight.grad
    assert grown is not None
    assert grown.is_sparse == sparse


def settings_run(folder: Path, process: Process) -> Run:
    return Run(folder, {}, process)


def our_loss(task: TwoTowerTask, inputs: StepInputs, run: Run, row: Row) -> torch.Tensor:
    settings = run_config(row)
    made = Trainer(task, run, settings.trainer, settings.optimizer, task.process)
    loss, _ = made._model(inputs)
    loss.backward()
    found: torch.Tensor = loss.detach()
    return found


def test_engines_learn_alike_and_are_timed_beside_each_other(config: Config) -> None:
    rows, parts = compare(replace(config, table_lr=0.1, peer_lr=0.01))

    assert [row["engine"] for row in rows] == ["shoprec", "sparse"]
    assert all(row["examples/s"] > 0 for row in rows)
    assert rows[0]["shoprec is faster by"] == 1
    recalls = [row["recall@100"] for row in rows]
    assert min(recalls) > 1.15 * 100 / 300
    assert np.ptp(recalls) < 0.15
    (told,) = parts
    assert told["table MB"] > 0
    assert told["copy GB/s"] > told["GB/s"] > 0
    named = sum(value for name, value in told.items() if name.endswith(" ms") and name[0] != "s")
    assert named == pytest.approx(told["step ms"], rel=0.05)


def test_table_bytes_are_those_of_rows_and_their_states(process: Process) -> None:
    config = TableConfig("item_id", 40, 8, ("item_id",), 0.05, 0.1)
    tables = ShardedTables((config,), process, ShardingConfig(), Load(3, {}), seed=0)
    bags = {"item_id": Bag(np.array([3, 4, 3]), np.array([0, 2, 3]))}

    found = table_bytes(StepInputs(tables.features(bags, 2), {}, {}), tables)

    assert found == 3 * 8 * 4 + 2 * 2 * (8 * 4 + 4)
