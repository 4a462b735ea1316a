"""Settings of rankers are checked."""

from __future__ import annotations

from typing import Any

import pytest

from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from ranking.wide_deep import WideDeepConfig
from trainer.config import compose
from trainer.ranker_config import RankerModelConfig


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="no loss"):
        RankerModelConfig(listwise=0.0, pointwise=0.0)
    with pytest.raises(ConfigError, match="item_dropout"):
        RankerModelConfig(item_dropout=1.0)
    with pytest.raises(ConfigError, match="multiple of 4"):
        WideDeepConfig(bucket_dim=6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tasks": {"buy": 1.0}}, r"model\.tasks must be of .*'purchase'"),
        ({"tasks": {"purchase": -1.0}}, "weights of zero or more"),
        ({"tasks": {"view": 1.0}}, r"model\.score reads \['purchase'\]"),
        ({"score": {"purchase": 1.0, "view": 0.5}}, r"model\.score reads \['view'\]"),
        ({"score": {"purchase": 0.0}}, "one above it"),
        ({"members": 0}, "members must be above zero"),
    ],
)
def test_tasks_and_scores_that_do_not_fit_are_refused(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        RankerModelConfig(**settings)


def test_tasks_are_named_on_the_command_line() -> None:
    config = compose(
        ["model=dcn_v2", "cutoff=t1", "+model.tasks={view: 0.1}", "model.network.width=32"]
    )

    assert isinstance(config.model, RankerModelConfig)
    assert config.model.kind == "dcn_v2"
    assert config.model.trained_tasks == {EventType.PURCHASE: 1.0, EventType.VIEW: 0.1}
