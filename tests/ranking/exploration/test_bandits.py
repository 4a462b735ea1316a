from __future__ import annotations

import numpy as np
import pytest

from ranking.exploration.bandits import Arms, Model, worths
from ranking.exploration.config import Algorithm, ExplorationConfig
from ranking.exploration.sums import Shown, Sums, added

RANDOM = np.random.default_rng(0)


def config(algorithm: Algorithm, **settings: float) -> ExplorationConfig:
    return ExplorationConfig(algorithm, **{"prior": 2.0, **settings})  # type: ignore[arg-type]


def arms(count: int = 3, expected: float = 0.1) -> Arms:
    contexts = np.stack([np.ones(count), np.linspace(0, 1, count)], axis=1)
    return Arms(list(range(count)), contexts, np.full(count, expected))


def learned(*shown: tuple[int, int, int], dim: int = 2) -> Sums:
    """Of items that were shown so often with so many rewards."""
    sums, every = Sums(dim), arms(10)
    for item_id, times, rewards in shown:
        one = Shown(item_id, arms(3).context_CD[item_id], float(every.expected_C[item_id]))
        sums.add(one.increments(), times)
        sums.add(one.rewards(), rewards)
    return sums


def row(algorithm: Algorithm, sums: Sums, **settings: float) -> list[float]:
    own = config(algorithm, **settings)
    found = worths(own, Model.of(sums, own), arms(), RANDOM)
    assert found.shape == (1, 3)
    return found[0].tolist()  # type: ignore[no-any-return]


def test_means_begin_at_the_rankers_expectation() -> None:
    found = row(Algorithm.epsilon_greedy, learned((1, 8, 3)))

    assert found == pytest.approx([0.1, (3 + 2 * 0.1) / (8 + 2), 0.1])


def test_ucb1_adds_a_width_that_falls_with_how_often_an_item_was_shown() -> None:
    found = row(Algorithm.ucb1, learned((0, 4, 1), (1, 12, 6)), alpha=1.0)

    assert found[:2] == pytest.approx(
        [1 / 4 + np.sqrt(2 * np.log(16) / 4), 6 / 12 + np.sqrt(2 * np.log(16) / 12)]
    )
    assert found[2] == np.inf


def test_the_hybrid_model_is_the_ridge_regression_with_one_offset_an_item() -> None:
    """Solved at once, with a column for each item beside the context."""
    shown = ((0, 5, 1), (1, 9, 6), (2, 2, 1))
    rows, rewards = [], []
    for item_id, times, hits in shown:
        rows += [np.concatenate([arms().context_CD[item_id], np.eye(3)[item_id]])] * times
        rewards += [1.0] * hits + [0.0] * (times - hits)
    matrix, left = np.array(rows), np.array(rewards) - 0.1
    precision = 2.0 * np.eye(5) + matrix.T @ matrix
    solution = np.linalg.solve(precision, matrix.T @ left)
    every = np.concatenate([arms().context_CD, np.eye(3)], axis=1)
    own = config(Algorithm.lin_ucb, alpha=1.5)
    model = Model.of(learned(*shown), own)
    spread = (every @ np.linalg.inv(precision) * every).sum(axis=1)

    found = worths(own, model, arms(), RANDOM)[0]

    assert found == pytest.approx(0.1 + every @ solution + 1.5 * np.sqrt(model.noise * spread))


def test_draws_of_the_linear_model_have_its_mean_and_spread() -> None:
    sums = learned((0, 5, 1), (1, 9, 6))
    middle = np.array(row(Algorithm.lin_ucb, sums, alpha=0.0))
    upper = np.array(row(Algorithm.lin_ucb, sums, alpha=1.0))
    own = config(Algorithm.thompson, draws=40_000)

    found = worths(own, Model.of(sums, own), arms(), np.random.default_rng(1))

    assert found.mean(axis=0) == pytest.approx(middle, abs=0.01)
    assert found.std(axis=0) == pytest.approx(upper - middle, rel=0.02)


def test_draws_of_rates_are_of_the_beta_distribution_after_what_was_seen() -> None:
    own = config(Algorithm.beta_thompson, draws=40_000)

    model = Model.of(learned((1, 8, 3)), own)
    found = worths(own, model, arms(), np.random.default_rng(1))

    hits, misses = 3 + 2 * 0.1, 5 + 2 * 0.9
    assert found[:, 1].mean() == pytest.approx(hits / (hits + misses), rel=0.01)
    variance = hits * misses / ((hits + misses) ** 2 * (hits + misses + 1))
    assert found[:, 1].var() == pytest.approx(variance, rel=0.05)


def test_a_new_item_is_judged_by_what_others_in_its_context_earned() -> None:
    sums, context = Sums(2), np.array([1.0, 1.0])
    for item_id in range(100, 130):
        sums.add(Shown(item_id, context, 0.1).increments(), 20)
        sums.add(Shown(item_id, context, 0.1).rewards(), 10)

    found = row(Algorithm.lin_ucb, sums, alpha=0.0)

    assert found[2] > 0.4  # of the same context; 10 of 20 were rewarded
    assert found[2] > found[1] > found[0] > 0.1


def test_rewards_at_places_that_few_look_at_count_for_more() -> None:
    """Of items as good, one shown at a place that half as many look at has half the rewards."""
    sums = Sums(2)
    for item_id, weight, rewards in ((0, 1.0, 400), (1, 0.5, 200)):
        one = Shown(item_id, np.array([1.0, 0.0]), 0.1, weight)
        sums.add(one.increments(), 1000)
        sums.add(one.rewards(), rewards)

    found = row(Algorithm.epsilon_greedy, sums)

    assert found[:2] == pytest.approx([0.4, 0.4], abs=0.01)


def test_increments_of_workers_may_come_in_any_order() -> None:
    every = [Shown(n % 3, arms().context_CD[n % 3], 0.1).increments() for n in range(9)]
    one, other = Sums(2), Sums(2)
    for increments in every:
        one.add(increments)
    other.add(added(reversed(every)))

    assert np.allclose(one.items[one.rows([0, 1, 2])], other.items[other.rows([0, 1, 2])])
    assert np.allclose(one.shared, other.shared)


def test_many_items_have_sums_of_their_own() -> None:
    sums = Sums(2)
    for item_id in range(3000):
        sums.add(Shown(f"item {item_id}", np.ones(2), 0.1).increments(), item_id + 1)

    assert sums.num_items == 3000
    assert sums.items[sums.rows(["item 2999", "item 0", "never"])][:, 0].tolist() == [3000, 1, 0]
