"""Users that an index is measured on: spread over a set, with the vectors that serving gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import read_json
from feature_repo.contract.dataset import Dataset
from retrieval.retriever import Retriever
from tests.trainer.shop import fit_bundle, sources_config
from trainer.index_users import spread_rows, vectors_of_users
from trainer.sets import SERVICE, TrainingSet
from trainer.sources import make_bundle
from trainer.two_tower import FOLDER


@pytest.fixture(scope="module")
def bundle(shop_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_bundle(shop_dataset, tmp_path_factory.mktemp("runs"))


def test_rows_are_spread_over_the_set(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, SERVICE, "sessions", "t1")

    rows = spread_rows(sessions, most=8, groups=2)

    assert 2 <= len(rows) <= 8
    assert rows.column_names == sessions.users.schema_arrow.names


def test_vectors_are_those_that_the_retriever_gives(bundle: Path, shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, SERVICE, "sessions", "t1")
    retriever = Retriever.load(bundle)

    found = vectors_of_users(bundle.parent / FOLDER, sessions, shop_dataset.half_life_days)

    expected = retriever.user_vectors(spread_rows(sessions, 2_048))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_bundle_may_hold_an_approximate_index(
    bundle: Path, shop_dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / bundle.parent.name
    shutil.copytree(bundle.parent, run, ignore=shutil.ignore_patterns("retriever"))

    made = make_bundle(sources_config(shop_dataset, run, "index=hnsw"))

    about = read_json(made / "index" / "index.json")
    assert (about["kind"], about["recall"] >= 0.95) == ("hnsw", True)
    assert about["num_queries"] > 0
    assert read_json(bundle / "index" / "index.json")["kind"] == "flat"
    users = spread_rows(TrainingSet.open(shop_dataset, SERVICE, "sessions", "t1"), 16)
    exact, found = (Retriever.load(b) for b in (bundle, made))
    same = exact.lists(exact.batch(users))["ann"].item_row == (
        found.lists(found.batch(users))["ann"].item_row
    )
    assert same.mean() > 0.9
