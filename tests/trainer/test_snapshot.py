from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.dataset import Clock, Dataset, IdType
from feature_repo.contract.snapshot import USUAL_DAYS, Snapshot
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy import Lists
from trainer.sets import TrainingSet
from trainer.snapshot import VISIT_DAYS, reference_rows, with_lists


@pytest.fixture
def users(shop_dataset: Dataset) -> TrainingSet:
    return TrainingSet.open(shop_dataset, "ranking_v1", "users", "t1")


def test_on_historical_data_the_rows_are_users_at_the_cutoff(
    shop_dataset: Dataset, users: TrainingSet
) -> None:
    found = reference_rows(shop_dataset, users, "t1")
    rows = found.rows

    assert found.earlier is None
    assert found.about == "users at the cut-off"
    assert len(rows) == users.users.metadata.num_rows
    assert not any(name.startswith("target") for name in rows.column_names)


def test_on_the_walls_clock_the_rows_are_each_users_last_visit_of_the_last_week(
    shop_dataset: Dataset, users: TrainingSet
) -> None:
    wall = replace(shop_dataset, clock=Clock.WALL)
    visits = TrainingSet.open(wall, "retrieval_v1", "sessions", "t1")
    every = pa.concat_tables(visits.chunks(["user_id", "event_timestamp"])).to_pylist()
    since = wall.edge("t1") - timedelta(days=VISIT_DAYS)
    last = {}
    for row in sorted(every, key=lambda row: row["event_timestamp"]):
        if row["event_timestamp"] >= since:
            last[row["user_id"]] = row["event_timestamp"]

    reference = reference_rows(wall, users, "t1")
    rows = reference.rows

    found = zip(rows["user_id"].to_pylist(), rows["event_timestamp"].to_pylist(), strict=True)
    assert reference.about.startswith("users just before their last visit of the 7 days")
    assert reference.earlier is not None
    latest = max(reference.earlier["event_timestamp"].to_pylist())
    assert latest < wall.edge("t1") - timedelta(days=USUAL_DAYS)
    assert dict(found) == last


def test_a_snapshot_knows_what_lists_are_like() -> None:
    items = pa.table({"item_id": [10, 20, 30, 40], "buyers_total": [8, 4, 2, 1]})
    vocabulary = Vocabulary.build(pa.array([10, 20, 30, 40]), IdType.INT64)
    row = vocabulary.rows(pa.array([10, 20]))
    score = np.array([[0.9, 0.5], [0.7, 0.1]], np.float32)
    lists = Lists(np.stack([row, row]), score, np.zeros((2, 2), np.int64), ("ann",))

    found = with_lists(Snapshot("x", 2, "users", ()), lists, items, vocabulary, num_users=8)

    assert found.lists == {"lists": 2, "k": 2, "coverage": 2 / 4, "novelty": (0 + 1) / 2}
    assert found.scores is not None
    assert found.scores.cuts == pytest.approx([0.7, 0.9])
