from __future__ import annotations

from typing import Any

import pytest

from feature_repo.contract.errors import ConfigError
from ranking.exploration.config import Algorithm, ExplorationConfig


def test_the_name_of_an_algorithm_is_enough() -> None:
    assert ExplorationConfig.from_json("ucb1") == ExplorationConfig(Algorithm.ucb1)


def test_settings_are_read_back_as_they_were_written() -> None:
    one = ExplorationConfig(Algorithm.lin_ucb, places=[2, 5], alpha=0.5, rewards={"click": 0.2})

    assert ExplorationConfig.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("best", "'best' is not a valid Algorithm"),
        ({"algorithm": "ucb1", "speed": 3}, "no setting \\['speed'\\]"),
        ({"places": [0]}, "places must be distinct numbers from 1"),
        ({"places": [2, 2]}, "places must be distinct numbers from 1"),
        ({"places": 3}, "do not hold"),
        ({"arms": 1}, "arms must be 2 or more"),
        ({"epsilon": 1.5}, "epsilon must be from 0 to 1"),
        ({"floor": "much"}, "do not hold"),
        ({"prior": 0}, "prior must be above 0"),
        ({"alpha": -1}, "alpha must be 0 or more"),
        ({"expected": 1.0}, "expected must be between 0 and 1"),
        ({"rewards": {"click": 2.0}}, "rewards must be event types"),
    ],
)
def test_a_setting_that_does_not_hold_is_named(value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ExplorationConfig.from_json(value)
