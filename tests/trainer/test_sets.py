"""Reading training sets."""

from __future__ import annotations

from collections import defaultdict

import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError
from tests.retrieval import shop
from trainer.sets import TrainingSet, bought, fit_encoder


def test_a_set_is_found_by_edge_and_by_time(shop_dataset: Dataset) -> None:
    by_name = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    time = shop_dataset.edges[1].isoformat()

    assert TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", time) == by_name


def test_a_missing_set_names_the_command_that_makes_it(shop_dataset: Dataset) -> None:
    with pytest.raises(ArtifactError, match="training-set data=shop service=retrieval_v1"):
        TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t0")


def test_a_missing_column_is_named(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")

    with pytest.raises(ArtifactError, match="lacks \\['colour'\\]"):
        next(sessions.chunks(["user_id", "colour"]))


def test_items_of_few_buyers_get_no_row(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")
    buyers = defaultdict(set)
    for (user, time), items in shop.baskets().items():
        if time < shop_dataset.edges[1]:
            for item in items:
                buyers[item].add(user)

    encoder = fit_encoder(sessions, shop_dataset, min_buyers=9, history_length=5)

    assert encoder.items.ids.to_pylist() == sorted(i for i in buyers if len(buyers[i]) >= 9)
    assert len(encoder.users) == shop.NUM_USERS
    assert encoder.history_length == 5


def test_a_shop_without_repeated_items_is_told_what_to_do(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")

    with pytest.raises(ArtifactError, match=r"lower model\.min_buyers"):
        fit_encoder(sessions, shop_dataset, min_buyers=1_000, history_length=5)


def test_every_line_of_every_session_is_read(shop_dataset: Dataset) -> None:
    sessions = TrainingSet.open(shop_dataset, "retrieval_v1", "sessions", "t1")

    lines = bought(sessions)

    expected = [
        (user, item)
        for (user, time), items in shop.baskets().items()
        if time < shop_dataset.edges[1]
        for item in items
    ]
    found = zip(lines["user_id"].to_pylist(), lines["item_id"].to_pylist(), strict=True)
    assert sorted(found) == sorted(expected)
