"""The two-tower model: its loss, its training, and parity with what it exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Bag, Encoder
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.schema import Entity
from feature_repo.contract.tables import Tables
from retrieval.towers import TwoTower, pooled_inputs
from tests.retrieval import shop
from tests.trainer.shop import make_task, open_run, run_config
from trainer import checkpoints
from trainer.distributed import Process
from trainer.embeddings import pooled_of, stack
from trainer.loop import Trainer
from trainer.model_config import TwoTowerModelConfig
from trainer.two_tower import encode_items, judge, kept_checkpoint, train


def test_candidates_weigh_by_their_true_probability(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    task = make_task(run_config(shop_dataset, tmp_path), process, tmp_path)
    targets = np.repeat(np.arange(1, 41), 2)[:30]
    seen = np.zeros(41)
    random = np.random.default_rng(0)
    for step in range(4000):
        drawn = random.choice(41, 30, p=task.catalogue.share)
        seen[task._candidates(drawn, step)] += 1 / 4000

    log_q = task._log_q(np.arange(1, 41), len(targets))

    assert np.exp(log_q) == pytest.approx(seen[1:], abs=0.04)


def test_training_learns_the_tastes(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "trainer.epochs=6", "validate=true")
    model = config.model
    assert isinstance(model, TwoTowerModelConfig)
    folder = train(config, model, process)
    judged = read_table(shop_dataset.sets / "ranking_v1-users-t1" / "users.parquet")

    found = judge(folder / "two_tower", judged, 56.0, k=12)

    # 12 of 40 items at random are 0.3 of the relevant ones; the own taste's best 12 of 20 are more
    assert found["recall_all_12"] > 0.6
    assert train(config, model, process) == folder


def test_the_exported_model_gives_the_trained_ones_vectors(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "model.user_dropout=0", "model.item_dropout=0")
    run = open_run(config, process)
    task = make_task(config, process, run.folder)
    Trainer(task, run, config.trainer, config.optimizer, process).train()
    batch = next(task.batches(0, 0))

    task.dense.eval()
    with torch.no_grad():
        pooled = task.tables(stack(batch.users.bags, task.catalogue.encoded.bags))
        size = len(batch)
        users = task.dense.user_vectors(
            {name: pooled[name][:size] for name in batch.users.bags},
            torch.from_numpy(batch.users.dense),
        )
        items = task.dense.item_vectors(
            {name: pooled[name][size:] for name in task.catalogue.encoded.bags},
            torch.from_numpy(task.catalogue.encoded.dense),
        )
    task.export(tmp_path / "export")

    towers = TwoTower.load(tmp_path / "export")
    tables = Tables.load(tmp_path / "export" / "tables")
    with torch.no_grad():
        exported = towers.user_vectors(
            *pooled_inputs(batch.users, tables, towers.config.user.features)
        )
    assert exported.numpy() == pytest.approx(users.numpy(), abs=1e-5)
    vectors = np.load(tmp_path / "export" / "item_vectors.npy")
    assert vectors[1:] == pytest.approx(items.numpy()[1:], abs=1e-5)
    assert not vectors[0].any()
    assert Encoder.load(tmp_path / "export" / "encoder").schema == shop.SCHEMA


def test_the_user_tower_reads_the_moment_of_the_session(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "model.context=[HOUR,WEEKDAY]")
    task = make_task(config, process, tmp_path)
    batch = next(task.batches(0, 0))
    task.export(tmp_path / "exported")
    towers, tables = TwoTower.load(tmp_path / "exported"), Tables.load(tmp_path / "exported/tables")
    features = towers.config.user.features
    before = towers.user_vectors(*pooled_inputs(batch.users, tables, features))

    bag = batch.users.bags["request_hour"]
    later = Bag.single(bag.values % 24 + 1)
    moved = replace(batch.users, bags={**batch.users.bags, "request_hour": later})

    after = towers.user_vectors(*pooled_inputs(moved, tables, features))
    assert bag.values.min() >= 1
    assert (before - after).abs().amax(dim=1).min() > 0


def test_a_context_that_needs_a_column_is_refused(shop_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.context must be of \['HOUR', 'WEEKDAY'\]"):
        run_config(shop_dataset, tmp_path, "model.context=[DAYS_SINCE]")


def test_forgotten_ids_train_the_unknown_row(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    config = run_config(shop_dataset, tmp_path, "model.user_dropout=0.5")
    task = make_task(config, process, tmp_path)
    before = task.tables.rows_of("user_id", 0, 1)

    inputs = task.prepare(next(task.batches(0, 0)), 0)
    task.head(pooled_of(task.tables.sharded(inputs.features)), inputs).backward()

    assert (task.tables.rows_of("user_id", 0, 1) != before).any()


def test_a_warm_start_keeps_rows_and_values_and_adds_new_ids(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    few = run_config(shop_dataset, tmp_path, "model.min_buyers=9")
    assert isinstance(few.model, TwoTowerModelConfig)
    before = train(few, few.model, process)
    config = run_config(shop_dataset, tmp_path, f"warm_start={before}", "trainer.epochs=1")
    run = open_run(config, process)
    task = make_task(config, process, run.folder)
    loop = Trainer(
        task, run, config.trainer, config.optimizer, process, warm_start=kept_checkpoint(before)
    )

    loop._resume()

    old = Encoder.load(before / "two_tower" / "encoder")
    ids = old.items.ids.to_pylist()
    assert task.encoder.items.rows(ids).tolist() == old.items.rows(ids).tolist()
    assert len(task.encoder.items) == shop.NUM_ITEMS > len(ids)
    trained = Tables.load(before / "two_tower" / "tables")
    for name, table in trained.tables.items():
        assert (task.tables.rows_of(name, 0, len(table)) == table.values).all()
    towers = TwoTower.load(before / "two_tower").state_dict()
    for name, value in task.dense.state_dict().items():
        assert torch.equal(value, towers[name])
    new = task.tables.rows_of("item_id", len(ids) + 1, shop.NUM_ITEMS + 1)
    assert new.std() == pytest.approx(config.optimizer.init_std, rel=0.4)
    assert {float(state["step"]) for state in loop.adam.state.values()} == {
        float(checkpoints.latest(before / "checkpoints").name[5:])  # type: ignore[union-attr]
    }


def test_a_vocabulary_that_shrank_is_no_warm_start(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    every = run_config(shop_dataset, tmp_path)
    assert isinstance(every.model, TwoTowerModelConfig)
    before = train(every, every.model, process)
    config = run_config(shop_dataset, tmp_path, "model.min_buyers=9")
    run = open_run(config, process)
    task = make_task(config, process, run.folder)
    loop = Trainer(
        task, run, config.trainer, config.optimizer, process, warm_start=kept_checkpoint(before)
    )

    with pytest.raises(ArtifactError, match="a vocabulary can only grow"):
        loop.train()


def test_a_warm_start_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no checkpoint"):
        kept_checkpoint(tmp_path)


def test_items_are_encoded_by_their_rows(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    encoder = make_task(run_config(shop_dataset, tmp_path), process, tmp_path).encoder
    items = shop.item_table(shop_dataset.edges[1])

    found = encode_items(encoder, items)

    plain = encoder.encode(items, Entity.ITEM)
    rows = encoder.items.rows(items.column("item_id"))
    assert found.bags["category"].values[rows].tolist() == plain.bags["category"].values.tolist()
    assert found.dense[rows].tolist() == plain.dense.tolist()
    assert found.bags["item_id"].values.tolist() == list(range(encoder.items.num_rows))
    assert found.bags["category"].values[0] == 0
