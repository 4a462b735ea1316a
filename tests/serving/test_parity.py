"""Two ways to the same numbers: trained and exported models, offline and online rows.

``test_workers`` has the third: answers over HTTP.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.encoding import Encoded, query_times_s
from feature_repo.contract.schema import Entity
from ranking.scorer import Scorer
from retrieval.retriever import Retriever
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.golden import golden_lists
from tests.serving.shop import TinyShop
from trainer.export import answer


@pytest.fixture(scope="session")
def point_in_time_rows(shop: TinyShop) -> pa.Table:
    """Return the users' rows of the training set at the release's cut-off."""
    return read_table(shop.dataset.sets / "ranking_v1-users-t2" / "users.parquet")


@pytest.fixture(scope="session")
def online_rows(recommender: Recommender, point_in_time_rows: pa.Table) -> pa.Table:
    """Return the same users' rows, read from the store that Feast's CLI filled."""
    return recommender.read_rows(point_in_time_rows["user_id"].to_pylist())


def assert_same(first: Encoded, second: Encoded) -> None:
    np.testing.assert_array_equal(first.dense, second.dense)
    assert first.bags.keys() == second.bags.keys()
    for name, bag in first.bags.items():
        other = second.bags[name]
        np.testing.assert_array_equal(bag.values, other.values, err_msg=name)
        np.testing.assert_array_equal(bag.offsets, other.offsets, err_msg=name)
        if bag.weights is None:
            assert other.weights is None
        else:
            np.testing.assert_array_equal(bag.weights, other.weights, err_msg=name)


def test_an_online_row_is_the_offline_row(
    release: Release, point_in_time_rows: pa.Table, online_rows: pa.Table
) -> None:
    for feature in release.schema.of(Entity.USER):
        offline, online = point_in_time_rows[feature.name], online_rows[feature.name]
        assert online.type == offline.type, feature.name
        assert online.to_pylist() == offline.to_pylist(), feature.name


@pytest.mark.parametrize("part", ["retriever", "ranker"])
def test_an_online_row_is_encoded_as_the_offline_row(
    release: Release, point_in_time_rows: pa.Table, online_rows: pa.Table, part: str
) -> None:
    encoder = (
        release.retriever.encoder
        if part == "retriever"
        else release.scorers["default"].inputs.encoder
    )

    assert_same(
        encoder.encode(point_in_time_rows, Entity.USER),
        encoder.encode(online_rows, Entity.USER),
    )


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_bundles_in_the_run_folders_answer_the_golden_rows(
    release: Release, shop: TinyShop, exclude_seen: bool
) -> None:
    users = read_table(release.folder / "golden" / "users.parquet")
    retriever = Retriever.load(shop.bundle("retriever@t2"))
    scorer = Scorer.load(shop.bundle("ranker"), release.items)

    lists = answer(retriever, scorer, users, 10, exclude_seen=exclude_seen)

    for place, want in enumerate(golden_lists(release, exclude_seen).values()):
        rows, scores, _ = lists.of(place)
        assert retriever.encoder.items.ids_of(rows) == [item for item, _ in want]
        np.testing.assert_allclose(scores, [score for _, score in want], rtol=1e-5, atol=1e-6)


def test_golden_rows_were_asked_at_the_releases_time(release: Release) -> None:
    users = read_table(release.folder / "golden" / "users.parquet")

    assert set(query_times_s(users).tolist()) == {int(release.about.as_of.timestamp())}
    assert "target_item_id" not in users.column_names
