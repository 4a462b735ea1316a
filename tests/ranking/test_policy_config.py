from __future__ import annotations

import json

import pytest

from feature_repo.contract.errors import ConfigError
from ranking.exploration.config import Algorithm, ExplorationConfig
from ranking.policy_config import (
    ExposureConfig,
    PolicyConfig,
    PromotionConfig,
    Relevance,
    Similarity,
)

FULL = PolicyConfig(
    diversity=0.25,
    similarity=Similarity.vectors,
    attributes=["brand"],
    novelty=0.1,
    serendipity=0.2,
    relevance=Relevance.rank,
    max_per={"brand": 2},
    promotions=[PromotionConfig(column="coupons", boost=0.5, most=3)],
    exposure=[ExposureConfig(column="first_sold_s", within_days=28, share=0.2)],
    exploration={"discover": ExplorationConfig(Algorithm.lin_ucb, alpha=0.5)},
)


def test_settings_survive_json() -> None:
    assert PolicyConfig.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_nothing_given_is_no_policy() -> None:
    assert PolicyConfig.from_json({}) == PolicyConfig()
    assert PolicyConfig().updated([]) == PolicyConfig()


def test_settings_are_laid_over_those_that_are_there() -> None:
    settings = [
        "policy.diversity=0.5",
        "policy.similarity=attributes",
        "policy.max_per.category=3",
        'policy.promotions=[{"item_ids": [7], "slots": 1}]',
    ]

    found = FULL.updated(settings)

    assert found.diversity == 0.5
    assert found.similarity is Similarity.attributes
    assert found.max_per == {"brand": 2, "category": 3}
    assert found.promotions == [PromotionConfig(item_ids=[7], slots=1)]
    assert found.exposure == FULL.exposure


def test_each_scenario_explores_by_settings_of_its_own_or_not_at_all() -> None:
    found = FULL.updated(
        ["policy.exploration.default=thompson", 'policy.exploration.discover={"epsilon": 0.2}']
    )

    assert found.exploration["default"].algorithm is Algorithm.thompson
    assert found.exploration["discover"] == ExplorationConfig(epsilon=0.2)
    assert FULL.updated(["policy.exploration={}"]).exploration == {}


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("policy.diversity=1.5", "from 0 to 1; got 1.5"),
        ("policy.novelty=-0.1", "from 0 to 1; got -0.1"),
        ("policy.max_per.brand=0", "max_per.brand must be at least 1"),
        ("policy.colour=red", "unknown"),
        ("policy.diversity.brand=1", "only max_per and exploration have parts"),
        ("policy.diversity", "not a setting"),
        ("policy.exploration.default=best", "not a valid Algorithm"),
        ("policy.exploration=ucb1", "do not hold"),
        ("diversity=0.3", "not a setting"),
        ("policy.similarity=colour", "do not hold"),
        ("policy.diversity=much", "do not hold"),
        ('policy.exposure=[{"column": "brand", "share": 0}]', "above 0 and at most 1"),
        ('policy.exposure=[{"share": 0.1}]', "either a column or item_ids"),
        ('policy.exposure=[{"column": "brand", "colour": 1}]', "do not hold"),
        ('policy.promotions=[{"column": "brand"}]', "boost, slots or most"),
        ('policy.promotions=[{"column": "a", "slots": 3, "most": 2}]', "not be below slots"),
        ('policy.promotions=[{"item_ids": [1], "at_most": 2, "slots": 1}]', "about a column"),
    ],
)
def test_a_setting_that_does_not_hold_is_refused(setting: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PolicyConfig().updated([setting])
