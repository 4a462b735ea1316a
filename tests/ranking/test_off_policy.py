from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from ranking.off_policy import Estimator, Logged, bootstrap, diagnose, estimate


def logged(**changes: Any) -> Logged:
    values: dict[str, Any] = {
        "reward_N": np.array([1.0, 0.0, 1.0, 0.0]),
        "propensity_N": np.array([0.5, 0.5, 0.25, 0.25]),
        "target_N": np.array([0.25, 1.0, 0.5, 0.0]),
        "said_N": np.array([0.5, 0.5, 0.2, 0.2]),
        "direct_N": np.array([0.4, 0.4, 0.3, 0.3]),
    }
    return Logged(**{**values, **changes})


def test_weighted_rewards_are_averaged_over_all_choices() -> None:
    # Weights are 1/2, 2, 2 and 0; those of the two rewards are 1/2 and 2.
    assert estimate(logged(), Estimator.ips).value == pytest.approx((1 / 2 + 2) / 4)


def test_self_normalised_rewards_are_divided_by_the_sum_of_weights() -> None:
    assert estimate(logged(), Estimator.snips).value == pytest.approx((1 / 2 + 2) / (1 / 2 + 2 + 2))


def test_the_model_alone_says_what_it_expects_of_the_other_policy() -> None:
    assert estimate(logged(), Estimator.direct).value == pytest.approx((2 * 0.4 + 2 * 0.3) / 4)


def test_the_doubly_robust_estimate_corrects_the_model_by_its_weighted_errors() -> None:
    errors = 1 / 2 * (1 - 0.5) + 2 * (0 - 0.5) + 2 * (1 - 0.2) + 0 * (0 - 0.2)

    found = estimate(logged(), Estimator.doubly_robust).value

    assert found == pytest.approx(0.35 + errors / 4)


def test_clipped_weights_are_at_most_the_limit() -> None:
    assert estimate(logged(), Estimator.ips, clip=1.0).value == pytest.approx((1 / 2 + 1) / 4)
    assert diagnose(logged(), clip=1.0).clipped == 2 / 4


def test_the_effective_size_is_that_of_equal_weights() -> None:
    found = diagnose(logged())

    assert found.effective_size == pytest.approx(4.5**2 / (1 / 4 + 4 + 4))
    assert found.mean_weight == pytest.approx(4.5 / 4)
    assert found.largest == 2.0


def test_a_policy_judged_by_its_own_log_earns_what_it_earned() -> None:
    same = logged(target_N=np.array([0.5, 0.5, 0.25, 0.25]))

    for estimator in (Estimator.ips, Estimator.snips):
        assert estimate(same, estimator).value == pytest.approx(2 / 4)
    assert diagnose(same).effective_size == pytest.approx(4)


def simulated(random: np.random.Generator, count: int) -> Logged:
    """A uniform policy over four arms, and one that takes the arms 0 and 1 in 7 of 10 and 2 of 10
    cases; the arms' rates are .1 to .4."""
    rates, target = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.7, 0.2, 0.05, 0.05])
    arm = random.integers(0, 4, count)
    reward = (random.random(count) < rates[arm]).astype(np.float64)
    wrong = np.full(4, 0.5)
    direct = np.full(count, float(wrong @ target))
    return Logged(reward, np.full(count, 0.25), target[arm], wrong[arm], direct)


TRUE = 0.7 * 0.1 + 0.2 * 0.2 + 0.05 * 0.3 + 0.05 * 0.4


@pytest.mark.parametrize("estimator", [Estimator.ips, Estimator.snips, Estimator.doubly_robust])
def test_intervals_hold_the_value_as_often_as_they_promise(estimator: Estimator) -> None:
    rounds, held = 400, 0
    for seed in range(rounds):
        found = estimate(simulated(np.random.default_rng(seed), 4000), estimator)
        held += found.low <= TRUE <= found.high

    assert 0.92 < held / rounds < 0.98


def test_the_bootstrap_and_the_normal_interval_agree_where_there_is_much_data() -> None:
    random = np.random.default_rng(3)
    one = simulated(random, 5000)

    for estimator in (Estimator.ips, Estimator.snips, Estimator.doubly_robust):
        normal = estimate(one, estimator)
        drawn = bootstrap(one, estimator, random, rounds=400)
        assert drawn.low == pytest.approx(normal.low, abs=0.3 * (normal.value - normal.low))
        assert drawn.high == pytest.approx(normal.high, abs=0.3 * (normal.high - normal.value))


def test_choices_of_a_group_count_as_one() -> None:
    one = simulated(np.random.default_rng(5), 500)
    thrice = one.take(np.repeat(np.arange(500), 3))
    grouped = Logged(
        thrice.reward_N, thrice.propensity_N, thrice.target_N, group_N=np.repeat(np.arange(500), 3)
    )

    plain, found = estimate(one, Estimator.ips), estimate(grouped, Estimator.ips)

    assert (found.value, found.low) == pytest.approx((plain.value, plain.low))
    drawn = bootstrap(grouped, Estimator.ips, np.random.default_rng(0), rounds=400)
    assert drawn.high - drawn.low == pytest.approx(plain.high - plain.low, rel=0.2)


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(BadInput, match="Propensities must be above 0 and at most 1"):
        logged(propensity_N=np.array([0.5, 0.0, 0.25, 0.25]))
    with pytest.raises(BadInput, match="target_N has 1 values"):
        logged(target_N=np.array([1.0]))
    with pytest.raises(BadInput, match="from 0 to 1"):
        logged(target_N=np.full(4, 1.5))
    with pytest.raises(BadInput, match="no logged choice"):
        Logged(np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(BadInput, match="reward model"):
        estimate(logged(said_N=None), Estimator.doubly_robust)
    with pytest.raises(BadInput, match="none of the logged choices"):
        estimate(logged(target_N=np.zeros(4)), Estimator.snips)
