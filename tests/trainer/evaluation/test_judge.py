from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.trainer.evaluation.shop import Event, make_shop
from trainer.evaluation.baselines import LABELS
from trainer.evaluation.config import Split
from trainer.evaluation.judge import Judge
from trainer.evaluation.result import TaskResult
from trainer.evaluation.window import Task, Window, load_window

# Items in rows: bread 1, milk 2, tea 3. Relevant: ann {milk, tea}, bob {milk}.
EVENTS: list[Event] = [
    ("ann", "bread", 1),
    ("ann", "tea", 1),
    ("ann", "milk", 2),
    ("bob", "bread", 3),
    ("ann", "milk", 85),
    ("ann", "tea", 86),
    ("bob", "milk", 87),
]
CATEGORIES = {"bread": "bakery", "milk": "dairy", "tea": "dairy"}
SECOND = 1 / math.log2(3)
"""Discount of the second place."""


def lists(*rows: list[int]) -> npt.NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


BASELINES = {
    "recent_popular": lists([1, 0], [1, 0]),
    "own_frequency": lists([1, 2], [1, 0]),
}


@pytest.fixture
def window(tmp_path: Path) -> Window:
    return load_window(make_shop(tmp_path, EVENTS, categories=CATEGORIES), Split.validation)


def judge(
    window: Window,
    system: npt.NDArray[np.int64] | None = None,
    baselines: Mapping[str, npt.NDArray[np.int64]] = BASELINES,
) -> TaskResult:
    judged = window.judged(Task.ALL)
    named = None if system is None else ("shoprec", system)
    return Judge(window, k=2, samples=200, seed=0).judge(judged, baselines, LABELS, named)


def means(result: TaskResult, name: str) -> dict[str, float]:
    return {metric: found.mean for metric, found in result.method(name).metrics.items()}


def test_means_are_over_the_users_with_a_relevant_item(window: Window) -> None:
    found = means(judge(window, lists([1, 3], [2, 3])), "shoprec")

    assert found["precision"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["recall"] == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert found["hit_rate"] == 1.0
    assert found["ndcg"] == pytest.approx((SECOND / (1 + SECOND) + 1.0) / 2)


def test_a_user_without_a_list_counts_zero(window: Window) -> None:
    result = judge(window, lists([2, 3], [0, 0]))

    assert result.without_list == 1
    assert means(result, "shoprec")["ndcg"] == pytest.approx((1 + 0) / 2)


def test_what_both_simple_baselines_name_is_no_surprise(window: Window) -> None:
    # Ann expects bread and milk, so that tea alone surprises; bob expects bread.
    found = means(judge(window, lists([2, 3], [1, 2])), "shoprec")

    assert found["serendipity"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_novelty_is_in_bits_of_the_share_of_buyers(window: Window) -> None:
    found = means(judge(window, lists([1, 3], [1, 0])), "shoprec")

    # Of two users, two bought bread (0 bits) and one bought tea (1 bit).
    assert found["novelty"] == pytest.approx(((0 + 1) / 2 + 0) / 2)


def test_diversity_is_over_lists_of_at_least_two(window: Window) -> None:
    found = means(judge(window, lists([1, 3], [1, 0])), "shoprec")

    assert found["diversity"] == pytest.approx(1.0)


def test_coverage_is_of_the_items_known_before(window: Window) -> None:
    result = judge(window, lists([1, 3], [1, 0]))

    assert result.method("shoprec").coverage == pytest.approx(2 / 3)
    assert result.method("recent_popular").coverage == pytest.approx(1 / 3)


def test_the_best_baseline_is_the_one_with_the_highest_ndcg(window: Window) -> None:
    result = judge(window, lists([2, 3], [2, 3]))

    assert result.best_baseline == "own_frequency"
    expected = (1 + 1) / 2 - (SECOND / (1 + SECOND) + 0) / 2
    assert result.difference["ndcg"].mean == pytest.approx(expected)


def test_the_difference_of_equal_lists_is_zero_without_doubt(window: Window) -> None:
    difference = judge(window, BASELINES["own_frequency"]).difference["ndcg"]

    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_without_a_system_the_baselines_stand_alone(window: Window) -> None:
    result = judge(window)

    assert result.system is None
    assert result.difference == {}
    assert [method.name for method in result.methods] == list(BASELINES)


def test_intervals_hold_their_means(window: Window) -> None:
    for method in judge(window, lists([2, 3], [1, 2])).methods:
        for found in method.metrics.values():
            assert found.low <= found.mean <= found.high


def test_segments_split_users_by_their_trips(window: Window) -> None:
    result = judge(window, lists([2, 3], [1, 0]))

    # Ann shopped at two times, bob at one.
    assert [(segment.label, segment.users) for segment in result.segments] == [("1", 1), ("2", 1)]
    assert [segment.ndcg["shoprec"] for segment in result.segments] == [0.0, 1.0]


def test_a_shop_without_attributes_has_no_diversity(tmp_path: Path) -> None:
    window = load_window(make_shop(tmp_path, EVENTS), Split.validation)

    assert "diversity" not in judge(window).method("own_frequency").metrics


def test_a_system_without_any_list_has_no_novelty(window: Window) -> None:
    result = judge(window, lists([0, 0], [0, 0]))

    assert "novelty" not in result.method("shoprec").metrics
    assert means(result, "shoprec")["ndcg"] == 0.0


def test_exposure_of_groups_is_their_share_of_the_places(window: Window) -> None:
    # Before the window ann and bob bought bread, ann tea and milk: none is in the tail's fifth.
    result = judge(window, lists([1, 3], [2, 0]))

    shares = {group.label: group for group in result.groups}

    assert list(shares) == ["new items", "long tail"]
    assert shares["new items"].items == 3 / 3
    assert shares["new items"].places["shoprec"] == 3 / 3
    assert shares["long tail"].places["shoprec"] == 0
    assert shares["new items"].wanted == 1


def test_users_who_never_shopped_are_a_segment_of_their_own(tmp_path: Path) -> None:
    events = [*EVENTS, ("eve", "bread", 85)]
    window = load_window(make_shop(tmp_path, events, categories=CATEGORIES), Split.validation)
    baselines = {name: lists([1, 0], [1, 0], [1, 0]) for name in BASELINES}

    result = judge(window, baselines=baselines)

    assert [(one.label, one.users) for one in result.segments] == [("0", 1), ("1", 1), ("2", 1)]
