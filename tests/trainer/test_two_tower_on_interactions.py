"""The two-tower model on ids alone: whole histories, and item towers that read neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.config import InteractionsConfig, load_config
from feature_repo.jobs.interactions import make_interactions
from trainer.config import RunConfig, compose
from trainer.distributed import Process
from trainer.model_config import TwoTowerModelConfig
from trainer.sets import SERVICE, TrainingSet, judged_users
from trainer.two_tower import TwoTowerTask, judge, train

NUM_ITEMS = 60


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a benchmark of 60 users who like the even or the odd half of 60 items."""
    folder, random = tmp_path_factory.mktemp("bench"), np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(60):
        liked = 2 * random.permutation(NUM_ITEMS // 2)[:15] + user % 2
        lines["train"].append(" ".join(map(str, [user, *liked[:10]])))
        lines["test"].append(" ".join(map(str, [user, *liked[10:]])))
    for name, found in lines.items():
        (folder / name).write_text("\n".join(found))
    files = [f"data.{name}={folder / name}" for name in lines]
    overrides = ["data=interactions", "data.name=bench", f"data.root={folder}/set", *files]
    return make_interactions(load_config(InteractionsConfig, [*overrides, "neighbours=4"]))


def settings(bench: Dataset, runs: Path) -> RunConfig:
    return compose(
        [
            "experiment=interactions/gowalla/two_tower",
            "cutoff=t2",
            "data.name=bench",
            f"data.root={bench.root}",
            f"paths.runs={runs}",
            "sharding.device=cpu",
            "model.id_dim=8",
            "model.dim=8",
            "model.num_negatives=20",
            "trainer.batch_size=8",
            "optimizer.warmup_steps=5",
        ]
    )


def test_an_items_neighbours_lie_at_its_row(
    bench: Dataset, process: Process, tmp_path: Path
) -> None:
    config = settings(bench, tmp_path)
    assert isinstance(config.model, TwoTowerModelConfig)
    sessions = TrainingSet.open(bench, SERVICE, "sessions", "t2")
    task = TwoTowerTask(config, config.model, bench, sessions, process, tmp_path)

    bag = task.catalogue.encoded.bags["co_bought_item_id"]

    assert bag.weights is not None
    assert bag.offsets[1] == 0  # the unknown item has none
    for item in sessions.items.to_pylist()[::7]:
        place = task.encoder.items.rows([item["item_id"]])
        found = bag.take(place)
        near = task.encoder.items.rows(item["co_bought_item_id"])
        assert found.values.tolist() == near.tolist()
        assert found.weights == pytest.approx(item["co_bought_weight"])


def test_whole_histories_teach_the_tastes(bench: Dataset, process: Process, tmp_path: Path) -> None:
    config = settings(bench, tmp_path)
    assert isinstance(config.model, TwoTowerModelConfig)

    folder = train(config, config.model, process) / "two_tower"

    found = judge(folder, judged_users(bench, "t2"), bench.half_life_days)
    # 20 of 50 new items at random find 0.4; the 20 new ones of the own taste are all there is
    assert found["recall_new_20"] > 0.8
    assert found["recall_new_200"] == 1.0
