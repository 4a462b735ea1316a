from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.evaluation.shop import T1, Event, make_shop, random_shop
from trainer.evaluation import baselines
from trainer.evaluation.baselines import (
    LABELS,
    Scorer,
    baseline_lists,
    decayed,
    fill,
    fit_ease,
    fit_ials,
    fit_item_knn,
    fit_own_frequency,
    most_bought,
    popularity,
    recent,
    top_lists,
)
from trainer.evaluation.config import BaselineConfig, Split
from trainer.evaluation.window import Purchases, Task, Window, load_window

DAY = 86_400
INF = math.inf


def purchases(*events: tuple[int, int, float]) -> Purchases:
    """User row, item row, day."""
    user, item, days = zip(*events, strict=True)
    return Purchases(np.array(user), np.array(item), (np.array(days) * DAY).astype(np.int64))


def matrix(rows: list[list[float]]) -> sp.csr_matrix:
    """[users + 1, items + 1] from rows of known users and items."""
    return sp.csr_matrix(np.pad(np.array(rows, np.float32), ((1, 0), (1, 0))))


def rows(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def scorer_of(scores: list[list[float]], items: npt.NDArray[np.int64]) -> Scorer:
    table = np.array(scores, np.float32)
    return Scorer(items, lambda users: table[users - 1].copy())


# ---- popularity and own frequency


def test_popularity_counts_buyers_not_purchases() -> None:
    bought = purchases((1, 3, 0), (1, 3, 1), (1, 3, 2), (1, 2, 0), (2, 2, 0))

    assert popularity(bought, 4).tolist() == [2, 3, 1, 4]


def test_recent_is_the_last_days_before_the_cutoff() -> None:
    bought = purchases((1, 1, 71.9), (1, 2, 72.0), (1, 3, 99.0))

    assert recent(bought, 100 * DAY, 28.0).item.tolist() == [2, 3]


def test_a_purchase_weighs_half_after_its_half_life() -> None:
    bought = purchases((1, 1, 100), (1, 1, 44), (1, 1, 72))

    weights = decayed(bought, 100 * DAY, 56.0)

    np.testing.assert_allclose(weights, [1, 1 / 2, 1 / math.sqrt(2)], rtol=1e-6)


def test_own_frequency_sums_weights_and_names_only_what_was_bought() -> None:
    bought = purchases((1, 2, 44), (1, 2, 44), (1, 3, 72), (2, 1, 100))
    weights = bought.matrix(2, 3, decayed(bought, 100 * DAY, 56.0))

    lists = top_lists(fit_own_frequency(weights, rows(1, 2, 3)), rows(1, 2), None, 3)

    assert lists.tolist() == [[2, 3, 0], [1, 0, 0]]  # 2/2 beats 1/sqrt(2)


def test_own_frequency_breaks_ties_by_popularity() -> None:
    weights = matrix([[1, 1, 1]])

    lists = top_lists(fit_own_frequency(weights, rows(3, 1, 2)), rows(1), None, 3)

    assert lists.tolist() == [[3, 1, 2]]


# ---- item-kNN


def test_most_bought_items_come_in_rising_rows_and_unbought_ones_never() -> None:
    seen = matrix([[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1]])

    assert most_bought(seen, 2).tolist() == [1, 3]
    assert most_bought(seen, 10).tolist() == [1, 3, 4]


SEEN: list[list[float]] = [[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]
"""Buyers of the items: {1, 2, 3}, {1, 2}, {2, 4}."""


def test_item_knn_sums_the_cosines_to_the_users_items() -> None:
    scores = fit_item_knn(matrix(SEEN), rows(1, 2, 3), neighbours=3).score(rows(1, 4))

    one_two, one_three, two_three = 2 / math.sqrt(3 * 2), 1 / math.sqrt(3 * 2), 1 / math.sqrt(2 * 2)
    expected = [[one_two, one_two, one_three + two_three], [one_three, two_three, -INF]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_item_knn_reads_only_the_nearest_of_each_bought_item() -> None:
    scores = fit_item_knn(matrix(SEEN), rows(1, 2, 3), neighbours=1).score(rows(4))

    # The user bought item 3, whose nearest is item 2: 1/2 > 1/sqrt(6).
    np.testing.assert_allclose(scores, [[-INF, 1 / 2, -INF]], rtol=1e-6)


def test_item_knn_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = matrix((np.random.default_rng(0).random((30, 11)) < 0.3).astype(float).tolist())
    items, users = np.arange(1, 12), np.arange(1, 31)
    whole = fit_item_knn(seen, items, 4).score(users)

    monkeypatch.setattr(baselines, "CHUNK_ITEMS", 3)

    np.testing.assert_allclose(fit_item_knn(seen, items, 4).score(users), whole, rtol=1e-6)


# ---- EASE


def test_ease_of_two_items_is_a_ridge_regression_of_one_on_the_other() -> None:
    seen = matrix([[1, 1], [1, 0], [1, 1], [0, 1]])

    scores = fit_ease(seen, rows(1, 2), l2=0.5).score(rows(1, 2))

    # B[1, 2] = x1.x2 / (x1.x1 + l2), and likewise B[2, 1]; here both are 2 / (3 + 0.5).
    np.testing.assert_allclose(scores, [[2 / 3.5, 2 / 3.5], [0, 2 / 3.5]], atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(2, 8), st.floats(0.1, 100))
def test_ease_by_users_equals_ease_by_items(
    seed: int, num_users: int, num_items: int, l2: float
) -> None:
    seen = np.random.default_rng(seed).random((num_users, num_items)) < 0.5
    bought = matrix(seen.astype(float).tolist())[:, 1:].tocsr()
    items, users = np.arange(1, num_items + 1), np.arange(1, num_users + 1)
    active = np.flatnonzero(np.diff(bought.indptr))

    by_items = baselines._ease_by_items(bought, items, l2).score(users)
    by_users = baselines._ease_by_users(bought, active, items, l2).score(users)

    np.testing.assert_allclose(by_users, by_items, atol=2e-3)


def test_a_user_without_a_purchase_gets_no_list_of_ease_or_ials() -> None:
    seen = matrix([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    config = BaselineConfig(ials_factors=4, ials_iterations=2)

    for scorer in (fit_ease(seen, rows(1, 2, 3), 1.0), fit_ials(seen, config)):
        assert top_lists(scorer, rows(2), None, 3).tolist() == [[0, 0, 0]]


# ---- iALS


def test_ials_prefers_the_items_of_the_users_own_group() -> None:
    block = np.kron(np.eye(2), np.ones((8, 5)))
    block[0, 4] = 0.0  # the first user of the first group lacks its last item
    config = BaselineConfig(ials_factors=4, ials_l2=0.1, ials_alpha=10.0)

    lists = top_lists(fit_ials(matrix(block.tolist()), config), rows(1, 9), None, 5)

    assert set(lists[0]) == {1, 2, 3, 4, 5}
    assert set(lists[1]) == {6, 7, 8, 9, 10}


def test_ials_is_the_same_every_time() -> None:
    seen = matrix((np.random.default_rng(0).random((30, 20)) < 0.3).astype(float).tolist())
    users = np.arange(1, 31)
    config = BaselineConfig(ials_factors=4, ials_iterations=3)

    first, second = (fit_ials(seen, config).score(users) for _ in range(2))

    np.testing.assert_array_equal(first, second)


# ---- lists


def test_top_lists_are_best_first_and_equals_go_by_row() -> None:
    scorer = scorer_of([[0.1, 0.9, 0.9, -INF], [0.2, -INF, -INF, 0.4]], rows(2, 5, 7, 9))

    assert top_lists(scorer, rows(1, 2), None, 3).tolist() == [[5, 7, 2], [9, 2, 0]]


def test_top_lists_leave_out_what_was_seen() -> None:
    scorer = scorer_of([[0.9, 0.5, 0.1]], rows(1, 2, 3))

    assert top_lists(scorer, rows(1), matrix([[1, 0, 0]]), 2).tolist() == [[2, 3]]


def test_top_lists_of_fewer_items_than_places_are_padded() -> None:
    assert top_lists(scorer_of([[0.5]], rows(4)), rows(1), None, 3).tolist() == [[4, 0, 0]]
    assert top_lists(scorer_of([[]], rows()), rows(1), None, 2).tolist() == [[0, 0]]


def test_empty_places_take_the_first_items_that_the_list_does_not_hold() -> None:
    lists = np.array([[3, 0, 0], [0, 0, 0], [4, 5, 6]])

    filled = fill(lists, rows(3, 1, 2, 4, 5, 6), rows(1, 2, 3), None)

    assert filled.tolist() == [[3, 1, 2], [3, 1, 2], [4, 5, 6]]


def test_filling_passes_over_what_the_user_has_seen() -> None:
    seen = matrix([[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]])

    filled = fill(np.zeros((2, 3), np.int64), rows(1, 2, 3, 4, 5), rows(1, 2), seen)

    assert filled.tolist() == [[3, 4, 5], [1, 2, 3]]


def test_a_list_stays_short_where_nothing_is_left() -> None:
    filled = fill(np.array([[2, 0, 0]]), rows(2, 1), rows(1), None)

    assert filled.tolist() == [[2, 1, 0]]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Window:
    return load_window(random_shop(tmp_path_factory.mktemp("shop")), Split.validation)


def test_every_list_of_every_baseline_is_whole_and_distinct(window: Window) -> None:
    users = {task: window.judged(task).users for task in Task}

    lists = baseline_lists(window, users, 5, BaselineConfig(ials_factors=4))

    for task in Task:
        assert list(lists[task]) == list(LABELS)
        for name, found in lists[task].items():
            assert found.shape == (len(users[task]), 5)
            assert all(len({*row} - {0}) == (row > 0).sum() for row in found), name
    assert all((found > 0).all() for found in lists[Task.ALL].values())


def test_no_list_of_new_items_holds_a_seen_one(window: Window) -> None:
    users = window.judged(Task.NEW).users
    everybody = window.judged(Task.ALL).users

    lists = baseline_lists(
        window, {Task.ALL: everybody, Task.NEW: users}, 5, BaselineConfig(ials_factors=4)
    )

    for name, found in lists[Task.NEW].items():
        owner, place = np.nonzero(found)
        assert np.asarray(window.seen[users[owner], found[owner, place]]).sum() == 0, name


def test_own_frequency_on_new_items_is_recent_popularity(window: Window) -> None:
    users = {task: window.judged(task).users for task in Task}

    new = baseline_lists(window, users, 5, BaselineConfig(ials_factors=4))[Task.NEW]

    np.testing.assert_array_equal(new["own_frequency"], new["recent_popular"])


def test_baselines_know_nothing_of_the_window(tmp_path: Path) -> None:
    before: list[Event] = [
        (f"u{n % 7}", f"i{n * n % 11}", float(n * 79 % 800) / 10) for n in range(200)
    ]
    truth: list[Event] = [(f"u{n}", "i1", T1 + 1) for n in range(7)]
    later: list[Event] = [(f"u{n % 7}", "i5", T1 + 2) for n in range(50)]
    config = BaselineConfig(ials_factors=4)
    found = []
    for name, events in (("plain", [*before, *truth]), ("more", [*before, *truth, *later])):
        window = load_window(make_shop(tmp_path / name, events), Split.validation)
        users = {task: window.judged(Task.ALL).users for task in Task}
        found.append(baseline_lists(window, users, 3, config))

    for task in Task:
        for name in LABELS:
            np.testing.assert_array_equal(found[0][task][name], found[1][task][name])
