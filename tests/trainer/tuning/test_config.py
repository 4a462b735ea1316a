"""Searches: every file composes with an experiment, and mistakes get a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from feature_repo.contract.errors import ConfigError
from trainer.config import choices, compose
from trainer.tuning.config import (
    GROUP,
    Direction,
    Kind,
    SearchConfig,
    Setting,
    as_override,
    load_search,
)
from trainer.tuning.experiment import METRICS


@pytest.mark.parametrize("name", choices(GROUP))
def test_every_search_holds_for_the_experiment_of_its_name(name: str) -> None:
    search = load_search(name, [])

    for key, setting in search.space.items():
        for value in setting.extremes:
            config = compose([f"experiment={name}", "cutoff=t1", as_override(key, value)])
            assert search.metric in METRICS[type(config.model)]


def test_the_command_line_wins_over_the_file() -> None:
    search = load_search("two_tower", ["trials=7", "direction=minimize", "grace_s=30"])

    assert (search.trials, search.direction, search.grace_s) == (7, Direction.minimize, 30.0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"type": Kind.float, "low": 0.0}, "has low and high"),
        ({"type": Kind.float, "low": 2.0, "high": 1.0}, "low must not be above high; got 2.0"),
        ({"type": Kind.int, "low": 0.5, "high": 1.0}, "whole numbers; got 0.5"),
        ({"type": Kind.int, "low": 0, "high": 8, "log": True}, "above zero; got 0"),
        ({"type": Kind.categorical}, "has choices"),
        ({"type": Kind.categorical, "choices": [1], "low": 1.0}, "neither low"),
        ({"type": Kind.categorical, "choices": [[8, 8]]}, r"got \[8, 8\]"),
        ({"type": Kind.float, "low": 0.0, "high": 1.0, "choices": [1]}, "no choices"),
    ],
)
def test_values_that_do_not_hold_are_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Setting(**setting)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("reduction_factor=1", "reduction_factor must be at least 2; got 1"),
        ("min_epochs=0", "min_epochs must be above zero"),
        ("grace_s=0.5", "grace_s must be at least 1"),
        ("direction=up", "up"),
        ("space.x=1", "two_tower does not hold"),
    ],
)
def test_a_search_that_does_not_hold_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search("two_tower", [override])

    assert said in str(caught.value)
    assert "hparams_search=two_tower does not hold" in str(caught.value)


def test_a_search_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no hparams_search=deep; choose of two_tower, wide_deep"):
        load_search("deep", [])


@pytest.mark.parametrize("key", ["cutoff", "trainer.epochs", "paths.runs", "data.root"])
def test_what_all_trials_share_cannot_be_searched(key: str) -> None:
    with pytest.raises(ConfigError, match="all trials of a study share it"):
        SearchConfig(metric="recall", space={key: Setting(Kind.int, 1, 2)})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space is empty"):
        SearchConfig(metric="recall")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-05, "1e-05"), (3, "3"), ("[8, 8]", "[8, 8]")],
)
def test_values_are_written_as_the_command_line_takes_them(value: Any, text: str) -> None:
    assert as_override("model.x", value) == f"model.x={text}"


def test_how_many_trials_there_are_is_no_part_of_what_a_search_is() -> None:
    few, many = (load_search("two_tower", [f"trials={count}"]) for count in (5, 50))

    assert few.identity() == many.identity()
    assert few.identity() != load_search("two_tower", ["seed=1"]).identity()
