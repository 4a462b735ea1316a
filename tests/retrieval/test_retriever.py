"""The retriever bundle: the same candidates for one user and for many, and refused if changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import read_json, read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Entity
from retrieval.retriever import STARTERS, Retriever
from tests.retrieval import shop


@pytest.fixture(scope="module")
def retriever(bundle: Path) -> Retriever:
    return Retriever.load(bundle)


@pytest.fixture(scope="module")
def users(shop_dataset: Dataset) -> pa.Table:
    return read_table(shop_dataset.sets / "ranking_v1-users-t1" / "users.parquet")


def unknown_user(users: pa.Table) -> pa.Table:
    """A row of a user of whom nothing is known."""
    empty = {
        name: pa.array([None], users.schema.field(name).type)
        for name in users.column_names
        if name not in ("user_id", "event_timestamp")
    }
    time = users.column("event_timestamp")[:1]
    return pa.table({"user_id": pa.array([987]), "event_timestamp": time, **empty})


def test_one_user_has_the_candidates_that_a_batch_gives(
    retriever: Retriever, users: pa.Table
) -> None:
    together = retriever.candidates(users)

    assert len(together) == len(users)
    for place in (0, 7, len(users) - 1):
        alone = retriever.candidates(users.slice(place, 1))
        part = together.slice_of(place)
        assert alone.item_row.tolist() == together.item_row[part].tolist()
        assert alone.score == pytest.approx(together.score[part], nan_ok=True, abs=1e-6)
        assert np.array_equal(alone.rank, together.rank[part], equal_nan=True)


def test_candidates_come_from_every_source(retriever: Retriever, users: pa.Table) -> None:
    found = retriever.candidates(users)

    named = np.isfinite(found.rank).sum(axis=0).tolist()
    silent = {name for name, count in zip(found.sources, named, strict=True) if count == 0}
    assert set(found.sources) == set(retriever.quotas)
    assert silent == {"brand"}  # the shop has no brands


def test_only_buy_again_names_what_was_bought(retriever: Retriever, users: pa.Table) -> None:
    batch = retriever.batch(users)
    lists = retriever.lists(batch)

    for user in range(len(users)):
        bought = batch.known(user)
        for name, top in lists.items():
            rows = top.item_row[user]
            repeated = np.isin(rows[rows > 0], bought)
            assert repeated.all() if name == "buy_again" else not repeated.any(), name


def test_excluded_items_are_no_candidates(retriever: Retriever, users: pa.Table) -> None:
    rows = users.slice(3, 1)
    before = retriever.candidates(rows)

    after = retriever.candidates(rows, excluded=[before.item_row[:4]])

    assert not np.isin(before.item_row[:4], after.item_row).any()
    assert np.isin(before.item_row[4:], after.item_row).all()


def test_an_unknown_user_has_candidates(retriever: Retriever, users: pa.Table) -> None:
    found = retriever.candidates(unknown_user(users))

    popular = found.rank[:, found.sources.index("popular")]
    assert len(found.item_row) > 10
    assert np.isfinite(popular).any()


def test_the_time_of_asking_moves_the_decay(retriever: Retriever, users: pa.Table) -> None:
    later = np.full(len(users), int(shop.EDGES[1].timestamp()) + 56 * 86_400)
    name = retriever.candidates(users).sources.index("buy_again")

    now, then = retriever.candidates(users), retriever.candidates(users, later)

    known = np.isfinite(now.score[:, name])
    assert then.score[np.isfinite(then.score[:, name]), name] == pytest.approx(
        now.score[known, name] / 2, rel=1e-4
    )


def test_user_vectors_match_the_item_vectors_scores(
    retriever: Retriever, users: pa.Table, bundle: Path
) -> None:
    vectors, items = retriever.user_vectors(users), np.load(bundle / "item_vectors.npy")
    found = retriever.candidates(users)
    name = found.sources.index("ann")

    for user in range(len(users)):
        part = found.slice_of(user)
        named = np.isfinite(found.score[part, name])
        products = items[found.item_row[part][named]] @ vectors[user]
        assert found.score[part, name][named] == pytest.approx(products, abs=1e-5)


def test_the_bundle_introduces_itself(bundle: Path, shop_dataset: Dataset) -> None:
    about = read_json(bundle / "manifest.json")["about"]

    assert about["dataset"] == "shop"
    assert about["cutoff"] == shop_dataset.edges[1].isoformat()
    assert about["similarity"] == "cosine"
    assert about["num_items"] == shop.NUM_ITEMS
    assert about["fingerprint"] == shop.SCHEMA.fingerprint
    assert set(about["sources"]) == {*about["quotas"], STARTERS}


def test_a_changed_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    vectors = np.load(copy / "item_vectors.npy")
    np.save(copy / "item_vectors.npy", vectors + 1)

    with pytest.raises(ArtifactError, match="does not match its hash"):
        Retriever.load(copy)


def test_a_missing_feature_is_named(retriever: Retriever, users: pa.Table) -> None:
    with pytest.raises(BadInput, match="segment"):
        retriever.candidates(users.drop_columns(["segment"]))


def test_the_user_tower_reads_what_the_schema_names(retriever: Retriever) -> None:
    assert retriever.towers.config.user.features == list(retriever.encoder.keys(Entity.USER))
