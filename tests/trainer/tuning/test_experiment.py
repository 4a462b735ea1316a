"""What can be sought is what the models measure, on windows that are not the test's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import write_manifest
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from ranking.wide_deep import WideDeepConfig
from retrieval.retriever import KIND
from tests.ranking import shop as ranking_shop
from tests.retrieval import shop
from tests.trainer.shop import run_config
from trainer.config import compose
from trainer.distributed import Process
from trainer.ranker import RankerTask
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_inputs import encode_windows
from trainer.ranker_windows import Window, labelled, targets_of
from trainer.tuning.experiment import METRICS, Experiment


def ranker(dataset: Dataset, tmp_path: Path, *overrides: str) -> list[str]:
    """Arguments that search a ranker's settings."""
    search = tmp_path / "search.yaml"
    search.write_text(
        "metric: ndcg@10\nspace: {model.balance: {type: float, low: 0.0, high: 1.0}}\n"
    )
    where = shop.overrides(dataset, tmp_path)
    return ["experiment=wide_deep", f"hparams_search={search}", "cutoff=t1", *where, *overrides]


def bundle(folder: Path, dataset: Dataset, edge: int) -> Path:
    """What a retriever bundle says of itself."""
    folder.mkdir()
    write_manifest(folder, KIND, {"cutoff": dataset.edges[edge].isoformat()})
    return folder


def test_a_ranker_measures_what_can_be_sought(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    users = ranking_shop.user_rows(ranking_shop.NUM_USERS)
    candidates = ranking_shop.candidates(users)
    vocabulary, items = ranking_shop.vocabulary(), ranking_shop.item_rows()
    labels, counts = labelled(candidates, targets_of(users, vocabulary))
    window = Window(users, items, ranking_shop.SCHEMA, vocabulary, candidates, labels, counts)
    network = WideDeepConfig(id_dim=4, feature_dim=4, bucket_dim=4, hidden=[8], without=[])
    inputs, rows = encode_windows([window], network, shop_dataset)
    config, model = run_config(shop_dataset, tmp_path), RankerModelConfig(network=network)

    measured = RankerTask(config, model, inputs, rows, process, judged=rows).evaluate()

    assert set(METRICS[RankerModelConfig]) == measured.keys()
    assert np.isfinite(list(measured.values())).all()


def test_a_ranker_needs_a_bundle_to_be_judged_with(shop_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs model\.validation=DIR"):
        Experiment.of(ranker(shop_dataset, tmp_path))


def test_trials_train_one_member_each(shop_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave model\.members to the final run"):
        Experiment.of(ranker(shop_dataset, tmp_path, "model.members=3"))


def test_a_ranker_is_judged_on_the_window_of_its_bundle(tmp_path: Path) -> None:
    dataset = shop.make_shop(tmp_path / "shop")
    shop.write_sets(dataset, 2, 64)
    before, after = (bundle(tmp_path / f"t{edge}", dataset, edge) for edge in (1, 2))

    with pytest.raises(ConfigError, match="reaches into the test window"):
        Experiment.of(ranker(dataset, tmp_path, f"model.validation={after}"))
    found = Experiment.of(ranker(dataset, tmp_path, f"model.validation={before}"))

    assert "ranking_v1-users-t1" in found.settings()["run"]["inputs"]


def test_trials_keep_their_best_epoch_and_measure_every_one(
    shop_dataset: Dataset, tmp_path: Path
) -> None:
    found = Experiment.of(
        [
            *("experiment=two_tower", "hparams_search=two_tower", "cutoff=t1"),
            *("trainer.epochs=9", "hparams_search.metric=recall_all_200"),
            *shop.overrides(shop_dataset, tmp_path),
        ]
    )

    config = compose(found.trial_overrides(["model.temperature=0.2"]))

    assert config.validate
    assert config.trainer.select == "recall_all_200"
    assert (config.trainer.epochs, config.trainer.evaluate_every) == (9, 1)


def test_what_is_sought_to_be_low_is_that_of_the_last_epoch(
    shop_dataset: Dataset, tmp_path: Path
) -> None:
    found = Experiment.of(
        [
            *("experiment=two_tower", "hparams_search=two_tower", "cutoff=t1"),
            "hparams_search.direction=minimize",
            *shop.overrides(shop_dataset, tmp_path),
        ]
    )

    assert found.config.trainer.select is None
