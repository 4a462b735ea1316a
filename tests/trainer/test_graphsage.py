"""GraphSAGE: neighbours by hand, and a run that is exported as a two-tower model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.randomness import key
from feature_repo.contract.tables import Tables
from retrieval.retriever import Retriever
from tests.retrieval import shop
from tests.trainer.shop import SMALL, sources_config
from trainer.__main__ import main
from trainer.graphsage import HISTORY, Neighbours
from trainer.sets import judged_users
from trainer.sources import make_bundle

GRAPH = Neighbours(
    np.array([[0, 0, 0], [2, 3, 4], [1, 0, 0]], dtype=np.int32),
    np.array([[0, 0, 0], [0.5, 0.2, 0.3], [0.7, 0, 0]], dtype=np.float32),
)


def test_the_nearest_neighbours_are_kept_with_weights_that_sum_to_one() -> None:
    bag = GRAPH.bag(np.array([1, 2, 0]), kept=2)

    assert bag.offsets.tolist() == [0, 2, 3, 3]
    assert bag.values.tolist() == [2, 4, 1]
    assert bag.weights is not None
    np.testing.assert_allclose(bag.weights, [0.5 / 0.8, 0.3 / 0.8, 1.0], rtol=1e-6)


def test_a_sample_is_the_items_own_whoever_draws_it() -> None:
    together = GRAPH.bag(np.array([2, 1]), 2, key(0, 1))
    alone = GRAPH.bag(np.array([1]), 2, key(0, 1))

    np.testing.assert_array_equal(together.values[1:], alone.values)
    assert set(alone.values) < {2, 3, 4}
    others = {tuple(sorted(GRAPH.bag(np.array([1]), 2, key(0, step)).values)) for step in range(20)}
    assert len(others) == 3


@pytest.fixture(scope="module")
def run(shop_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    settings = [setting for setting in SMALL if not setting.startswith("experiment")]
    graph = ["model.graph.neighbours=5", "model.graph.sampled=3", "validate=true"]
    overrides = [*settings, "model=graphsage", *graph, *shop.overrides(shop_dataset, runs)]
    assert main(overrides) == 0
    (found,) = runs.glob("run-*")
    return found


def test_users_read_the_vectors_of_their_items(run: Path) -> None:
    tables = Tables.load(run / "two_tower" / "tables")
    vectors = np.load(run / "two_tower" / "item_vectors.npy")

    assert read_json(run / "result.json")["recall_all_200"] > 0
    assert tables.table_of[HISTORY] == "item_vectors"
    np.testing.assert_array_equal(tables.tables["item_vectors"].values, vectors)


def test_a_retriever_serves_it_as_a_two_tower_model(run: Path, shop_dataset: Dataset) -> None:
    retriever = Retriever.load(make_bundle(sources_config(shop_dataset, run)))
    users = judged_users(shop_dataset, "t1").slice(0, 3)

    found = retriever.candidates(users)

    assert len(found) == 3
    assert np.isfinite(found.score[:, found.sources.index("ann")]).any()
