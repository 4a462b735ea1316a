"""Popularity by segment and trends, by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.artifacts import write_table
from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.vocabulary import Vocabulary
from tests.retrieval import shop
from trainer.popular import (
    SegmentBuyers,
    buyers_between,
    buyers_by_segment,
    decayed,
    growth,
    popular_source,
    segment_source,
)

VOCABULARY = Vocabulary.build([100, 101, 102], IdType.INT64)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four users; days are before t1."""
    made = shop.make_shop(tmp_path)
    cutoff = made.edges[1]
    days = {
        (1, 5): [100, 101],
        (1, 30): [100],
        (2, 10): [100],
        (3, 3): [101],
        (4, 3): [102],
        (4, 25): [101],
    }
    events = {(user, cutoff - timedelta(days=day)): items for (user, day), items in days.items()}
    events[1, cutoff] = [102]
    shop.write_events(made, events)
    write_users(made, {1: "a", 2: "a", 3: "b", 4: None}, made.start)
    return made


def write_users(dataset: Dataset, segments: dict[int, str | None], time: datetime) -> None:
    table = pa.table(
        {
            "user_id": list(segments),
            "event_timestamp": pa.array([time] * len(segments), shop.TIME),
            "segment": list(segments.values()),
        }
    )
    write_table(dataset.canonical / "users.parquet", table)


def test_a_purchase_counts_half_after_the_half_life() -> None:
    assert decayed(np.array([0.0, 7.0, 14.0]), 7.0).tolist() == [1, 1 / 2, 1 / 4]
    assert decayed(np.array([0.0, 7.0]), None).tolist() == [1, 1]


def test_the_most_bought_items_come_first_and_unsold_ones_never() -> None:
    found = popular_source("popular", np.array([0, 2, 0, 5], np.float32), True)

    assert found.rows.tolist() == [3, 1]
    assert found.scores.tolist() == [5, 2]


def test_buyers_are_counted_once_within_a_span_of_days(dataset: Dataset) -> None:
    cutoff = dataset.edges[1]

    assert buyers_between(dataset, cutoff, VOCABULARY, 14, 0).tolist() == [0, 2, 2, 1]
    assert buyers_between(dataset, cutoff, VOCABULARY, 35, 14).tolist() == [0, 1, 1, 0]


def test_buyers_are_counted_by_segment_and_those_without_for_everybody(dataset: Dataset) -> None:
    found = buyers_by_segment(dataset, dataset.edges[1], VOCABULARY, "segment", 14, None)

    assert found.segments == ("a", "b")
    assert found.buyers_SR.tolist() == [[0, 2, 1, 0], [0, 0, 1, 0]]
    assert found.users_S.tolist() == [2, 1]
    assert found.overall_R.tolist() == [0, 2 / 4, 2 / 4, 1 / 4]


def test_buyers_of_a_segment_decay_by_their_last_purchase(dataset: Dataset) -> None:
    found = buyers_by_segment(dataset, dataset.edges[1], VOCABULARY, "segment", 14, 5.0)

    assert found.buyers_SR[0].tolist() == [0, 2 ** (-5 / 5) + 2 ** (-10 / 5), 2 ** (-5 / 5), 0]
    assert found.users_S.tolist() == [2, 1]


def test_a_user_has_the_segment_of_the_cutoff(dataset: Dataset) -> None:
    write_users(dataset, {1: "later", 2: "later"}, dataset.edges[1])

    with pytest.raises(ConfigError, match="No user who bought of late has a value of segment"):
        buyers_by_segment(dataset, dataset.edges[1], VOCABULARY, "segment", 14, None)


def test_an_attribute_that_users_lack_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="no attribute 'colour'"):
        buyers_by_segment(dataset, dataset.edges[1], VOCABULARY, "colour", 14, None)


def test_a_data_set_without_users_has_no_segments(dataset: Dataset) -> None:
    (dataset.canonical / "users.parquet").unlink()

    with pytest.raises(ConfigError, match="shop has no table of users"):
        buyers_by_segment(dataset, dataset.edges[1], VOCABULARY, "segment", 14, None)


def test_segments_that_differ_by_chance_alone_get_everybodys_rates() -> None:
    counted = SegmentBuyers(
        ("a", "b"), np.array([[0, 51.0], [0, 49.0]]), np.array([100.0, 100.0]), np.array([0, 0.5])
    )

    assert counted.rates().tolist() == [[0, 0.5], [0, 0.5]]


def test_a_segments_rate_is_drawn_towards_everybodys() -> None:
    users = np.array([100.0, 10.0])
    counted = SegmentBuyers(
        ("a", "b"), np.array([[0, 80.0], [0, 2.0]]), users, np.array([0, 82 / 110])
    )

    rates = counted.rates()

    share = 82 / 110
    noise = users * share * (1 - share)
    excess = ((np.array([80, 2]) - users * share) ** 2 - noise).sum()
    strength = 1 / (excess / (noise * (users - 1)).sum()) - 1
    posterior = (np.array([80, 2]) + strength * share) / (users + strength)
    np.testing.assert_allclose(rates[:, 1], posterior)
    assert 0.2 < rates[1, 1] < share < rates[0, 1] < 0.8


def test_lists_of_segments_are_as_long_as_asked_after_everybodys() -> None:
    buyers = np.array([[0, 90.0, 5.0, 5.0], [0, 5.0, 5.0, 90.0]])
    counted = SegmentBuyers(("a", "b"), buyers, np.array([100.0, 100.0]), buyers.sum(axis=0) / 200)

    found = segment_source("segments", "age_band", counted, 2, True)

    assert found.rows.tolist() == [[1, 3], [1, 3], [3, 1]]
    assert found.scores[0] == pytest.approx([95 / 200, 95 / 200])


def test_growth_is_relative_and_few_buyers_prove_little() -> None:
    recent, earlier = np.array([0, 30.0, 3.0, 0]), np.array([0, 20.0, 2.0, 11.0])

    found = growth(recent.astype(np.float32), earlier.astype(np.float32), 10.0)

    expected = earlier * 33 / 33
    assert found.tolist() == pytest.approx(
        [0, (30 + 10) / (expected[1] + 10), (3 + 10) / (expected[2] + 10), 0]
    )
    assert found[1] > found[2]
