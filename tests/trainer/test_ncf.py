"""Neural collaborative filtering: its stages, its draws, and the source that it becomes."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from retrieval.sources import NcfSource
from tests.retrieval import shop
from trainer.__main__ import main
from trainer.config import compose
from trainer.distributed import Process
from trainer.embeddings import pooled_of
from trainer.fitted import load_fitted
from trainer.judge import Judged
from trainer.ncf import NcfTask, classified
from trainer.ncf_config import NcfConfig
from trainer.sets import SERVICE, TrainingSet, judged_users

SMALL = [
    "model=ncf",
    "cutoff=t1",
    "sharding.device=cpu",
    "trainer.batch_size=16",
    "trainer.epochs=3",
    "model.pretrain_epochs=2",
    "model.dim=8",
    "model.mlp_dim=8",
    "model.hidden=[8,4]",
    "validate=true",
]


def make_task(dataset: Dataset, process: Process, folder: Path, *overrides: str) -> NcfTask:
    """A model over the shop's sessions, not yet trained."""
    config = compose([*SMALL, *overrides, *shop.overrides(dataset, folder)])
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    assert isinstance(config.model, NcfConfig)
    return NcfTask(config, config.model, dataset, sessions, process, folder)


@pytest.fixture(scope="module")
def task(
    shop_dataset: Dataset, process: Process, tmp_path_factory: pytest.TempPathFactory
) -> NcfTask:
    """Return a small model; tests must not change it."""
    return make_task(shop_dataset, process, tmp_path_factory.mktemp("ncf"))


def test_a_run_is_trained_judged_and_read_back(
    shop_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["trainer.epochs=8", *shop.overrides(shop_dataset, tmp_path)]

    assert main([*SMALL, *overrides]) == 0

    run = Path(capsys.readouterr().out.strip())
    source, encoder = load_fitted(run)
    judged = Judged.of(judged_users(shop_dataset, "t1"), encoder)
    assert isinstance(source, NcfSource)
    assert (source.top(judged.users, 5).item_row > 0).any()
    by_chance = 20 / shop.NUM_ITEMS
    assert by_chance < read_json(run / "result.json")["recall_new_20"] <= 1


def test_the_source_scores_as_the_network_does(task: NcfTask) -> None:
    (batch, *_) = task.batches(0, 0)
    inputs = task.prepare(batch, task.pretrain_steps)
    pooled = pooled_of(task.tables.sharded(inputs.features))
    split, stop = inputs.sizes["users"], inputs.sizes["stop"]
    users = [pooled[f"{part}_user_id"][:split] for part in ("gmf", "mlp")]
    items = [pooled[f"{part}_item_id"][split:stop] for part in ("gmf", "mlp")]
    owner, place = inputs.tensors["owner"], inputs.tensors["place"]
    with torch.no_grad():
        gmf, mlp = task._logits(users, items, owner, place)
        expected = task.dense.neumf(gmf, mlp).numpy()
    tables = {
        name: torch.from_numpy(task.tables.rows_of(name, 0, table.num_rows))
        for name, table in task.tables.tables.items()
    }

    with torch.no_grad():
        source = task.source(tables)

    values = inputs.features.values().numpy()
    user_row, item_row = values[:split][owner], values[2 * split :][place.numpy()]
    pairs = np.repeat(user_row, place.shape[1]), item_row.ravel()
    np.testing.assert_allclose(source.logits(*pairs), expected.ravel(), rtol=1e-4, atol=1e-5)


def test_each_part_has_a_loss_of_its_own_until_they_are_one(
    task: NcfTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch, *_) = task.batches(0, 0)
    monkeypatch.setattr(task, "_network", copy.deepcopy(task.dense))
    losses = {}
    for step in (task.pretrain_steps - 1, task.pretrain_steps):
        inputs = task.prepare(batch, step)
        pooled = pooled_of(task.tables.sharded(inputs.features))
        with torch.no_grad():  # GMF says 2 of every pair, MLP -1
            for layer in (task.dense.gmf_output, task.dense.linear_layers()[-1]):
                layer.weight.zero_()
            task.dense.gmf_output.bias.fill_(2.0)
            task.dense.linear_layers()[-1].bias.fill_(-1.0)
            losses[step] = task.head(pooled, inputs).item()

    def loss(logit: float) -> float:
        """Of one bought and four drawn items, on average."""
        return (math.log1p(math.exp(-logit)) + 4 * math.log1p(math.exp(logit))) / 5

    before, after = losses.values()
    assert before == pytest.approx((loss(2.0) + loss(-1.0)) / 2, rel=1e-5)
    assert after == pytest.approx(loss(0.5 * 2.0 + 0.5 * -1.0), rel=1e-5)


def test_the_first_column_is_bought_and_the_others_are_not() -> None:
    found = classified(torch.tensor([[0.0, 1.0, -2.0]]))

    expected = math.log(2) + math.log1p(math.exp(1)) + math.log1p(math.exp(-2))
    assert found.item() == pytest.approx(expected)


def test_items_are_drawn_anew_in_every_epoch(task: NcfTask) -> None:
    (batch, *_) = task.batches(0, 0)

    places = [task.prepare(batch, step).tensors["place"] for step in (0, task.num_batches(), 0)]

    assert not torch.equal(places[0], places[1])
    assert torch.equal(places[0], places[2])


def test_a_share_of_the_users_is_hidden(task: NcfTask, monkeypatch: pytest.MonkeyPatch) -> None:
    (batch, *_) = task.batches(0, 0)
    monkeypatch.setattr(task.model, "user_dropout", 0.5)

    hidden = [(task._hidden_users(batch, step) == 0).mean() for step in range(50)]

    assert 0.4 < np.mean(hidden) < 0.6


def test_a_run_that_ends_before_its_parts_are_one_is_refused(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"must be above model\.pretrain_epochs=3"):
        make_task(shop_dataset, process, tmp_path, "model.pretrain_epochs=3")
