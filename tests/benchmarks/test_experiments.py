"""Simulated experiments, few and with a fixed seed: they are as often wrong as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks._experiment_shop import simulate
from benchmarks.experiments import Config, dealt, error_rates, rounds, split_rates, spread
from feature_repo.contract.errors import ConfigError
from serving.experiments.outcomes import COLUMNS, Outcomes

CONFIG = Config(users=300, rounds=40, effects=5, lift=0.9, salts=20, hashed=3000)


@pytest.fixture(scope="module")
def aa() -> list[Outcomes]:
    return rounds(CONFIG, CONFIG.rounds, 0.0)


def test_without_an_effect_the_alarms_are_as_many_as_promised(aa: list[Outcomes]) -> None:
    rows = error_rates(aa, rounds(CONFIG, CONFIG.effects, CONFIG.lift))

    for row in rows:
        for name in ("false_alarms", "with_cuped"):
            alarms = round(row[name] * CONFIG.rounds)
            test = stats.binomtest(alarms, CONFIG.rounds, 0.05, alternative="greater")
            assert test.pvalue > 0.001, row
    by_name = {row["metric"]: row for row in rows}
    assert by_name["revenue_per_user"]["variance_less"] > 0.1
    assert by_name["click_through"]["found"] == 1.0
    assert by_name["latency_ms"]["found"] < 0.5


def test_a_broken_split_raises_the_alarm(aa: list[Outcomes]) -> None:
    config = Config(lost=0.5)

    as_dealt, broken = split_rates(config, aa)

    assert as_dealt["alarms"] == 0
    assert broken["alarms"] > 0.9


def test_users_are_spread_evenly_and_layers_are_independent() -> None:
    for row in spread(CONFIG):
        assert row["ks_p"] > 0.001, row
        assert row["least_p"] > 1e-5, row


def test_simulated_users_do_all_that_is_reported(aa: list[Outcomes]) -> None:
    assert set(aa[0].columns) == set(COLUMNS)
    assert all(values.shape == (CONFIG.users,) for values in aa[0].columns.values())
    again = rounds(CONFIG, 1, 0.0)[0]
    for name in COLUMNS:
        np.testing.assert_array_equal(again.columns[name], aa[0].columns[name])


def test_an_effect_is_of_the_one_variant() -> None:
    users = list(range(4000))
    variant = dealt(users, "effect")

    found = simulate(np.random.default_rng(3), users, variant, 0.5)

    orders = found.columns["orders"]
    ratio = orders[variant == 1].mean() / orders[variant == 0].mean()
    assert ratio == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("settings", [{"rounds": 1}, {"lift": 0.0}, {"lost": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**settings)
