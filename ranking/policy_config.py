"""Settings of the list policy: what a shop wants of its lists beside the ranker's scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar

from feature_repo.contract.errors import ConfigError
from ranking.exploration.config import ExplorationConfig

PREFIX = "policy."

Rule = TypeVar("Rule", bound="ItemGroup")


class Relevance(Enum):
    """What a candidate is worth among those of its request; see ``ranking.rerank.relevance``."""

    rank = "rank"
    """The discount of its place by score alone."""
    probability = "probability"
    """Its softmax probability over that of the best one."""


class Similarity(Enum):
    """What makes two items alike."""

    attributes = "attributes"
    """The share of ``attributes`` in which they are equal."""
    vectors = "vectors"
    """The cosine of the release's item vectors, from 0."""


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigError(sentence)


@dataclass
class ItemGroup:
    """The items that a rule is about; an item whose value is unknown is not among them."""

    column: str | None = None
    """Item column; alone, its true or nonzero values belong to the group."""
    values: list[str] = field(default_factory=list)
    """Texts of the column that belong to the group."""
    at_least: float | None = None
    """Lowest number of the column."""
    at_most: float | None = None
    """Highest number of the column, such as buyers of the long tail."""
    within_days: float | None = None
    """The column holds epoch seconds of at most so many days ago, such as the first sale."""
    item_ids: list[Any] = field(default_factory=list)
    """Items by name, in place of a column."""

    def __post_init__(self) -> None:
        _require(
            (self.column is None) == bool(self.item_ids),
            f"A policy's group of items has either a column or item_ids; got {self.column!r} and "
            f"{len(self.item_ids)} item_ids.",
        )
        tests = [self.values or None, self.at_least, self.at_most, self.within_days]
        _require(
            self.column is not None or not any(test is not None for test in tests),
            "values, at_least, at_most and within_days are about a column; name it.",
        )


@dataclass
class PromotionConfig(ItemGroup):
    """Items that are shown more than their scores say."""

    boost: float = 0.0
    """Added to the score: of a logit, e to its power multiplies the odds. Negative: shown less."""
    slots: int = 0
    """Places of a list that the group has at least, where enough of it are candidates."""
    most: int | None = None
    """Places of a list that the group has at most; null: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(math.isfinite(self.boost), f"boost must be a number; got {self.boost}.")
        _require(self.slots >= 0, f"slots must be 0 or more; got {self.slots}.")
        _require(
            self.most is None or self.most >= self.slots,
            f"most must not be below slots; got {self.most} and {self.slots}.",
        )
        _require(
            bool(self.boost or self.slots) or self.most is not None,
            "A promotion must set boost, slots or most; it sets none.",
        )


@dataclass
class ExposureConfig(ItemGroup):
    """Items that have a share of the places of every list."""

    share: float = 0.1
    """Of the list's places, rounded up, where enough of the group are candidates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.share <= 1, f"share must be above 0 and at most 1; got {self.share}.")


@dataclass
class PolicyConfig:
    """The list policy; by default the best scores are the list."""

    diversity: float = 0.0
    """Strength of maximal marginal relevance: 0 the best scores, 1 the least alike items."""
    similarity: Similarity = Similarity.attributes
    """By which diversity tells that items are alike."""
    attributes: list[str] = field(
        default_factory=lambda: ["department", "category", "subcategory", "brand"]
    )
    """Item columns that similarity and serendipity compare; those that a shop lacks are skipped."""
    novelty: float = 0.0
    """Weight of an item's self-information against its relevance: 1 the least bought items."""
    popularity: str = "buyers_total"
    """Item column with the number of buyers, for novelty."""
    serendipity: float = 0.0
    """Weight of an item's distance from the user's history against its relevance."""
    relevance: Relevance = Relevance.rank
    """What the scores are worth where another aim is weighed against them."""
    max_per: dict[str, int] = field(default_factory=dict)
    """Item column, such as ``category`` -> most items of one of its values in a list."""
    promotions: list[PromotionConfig] = field(default_factory=list)
    exposure: list[ExposureConfig] = field(default_factory=list)
    exploration: dict[str, ExplorationConfig] = field(default_factory=dict)
    """Scenario, a ranker's name such as ``default`` -> how a server's lists of it explore."""

    def __post_init__(self) -> None:
        for name in ("diversity", "novelty", "serendipity"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{PREFIX}{name} must be from 0 to 1; got {value}.")
        for column, most in self.max_per.items():
            _require(most >= 1, f"{PREFIX}max_per.{column} must be at least 1; got {most}.")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them; ``from_json`` reads them back."""
        value = asdict(self)
        names = {"similarity": self.similarity.value, "relevance": self.relevance.value}
        explored = {name: own.to_json() for name, own in self.exploration.items()}
        return {**value, **names, "exploration": explored}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> PolicyConfig:
        """Read settings.

        Raises:
            ConfigError: a key is unknown, or a value out of range or of a wrong type.
        """
        known = [item.name for item in fields(PolicyConfig)]
        unknown = sorted(set(value) - set(known))
        _require(not unknown, f"{PREFIX}{unknown} is unknown; settings are {known}.")
        given = dict(value)
        try:
            for name, kind in (("similarity", Similarity), ("relevance", Relevance)):
                if name in given:
                    given[name] = kind(given[name])
            given["promotions"] = _rules(PromotionConfig, given.get("promotions", []))
            given["exposure"] = _rules(ExposureConfig, given.get("exposure", []))
            explored = given.get("exploration", {}).items()
            given["exploration"] = {k: ExplorationConfig.from_json(own) for k, own in explored}
            return PolicyConfig(**given)
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"The policy's settings do not hold: {error}.") from error

    def updated(self, settings: Sequence[str]) -> PolicyConfig:
        """With ``policy.KEY=VALUE`` settings laid over it; a value is JSON or a bare word.

        Raises:
            ConfigError: not a setting of a policy, or out of range.
        """
        value = self.to_json()
        for setting in settings:
            key, equals, text = setting.partition("=")
            path = key.removeprefix(PREFIX).split(".")
            sound = key.startswith(PREFIX) and equals and all(path) and len(path) <= 2
            _require(bool(sound), f"{setting!r} is not a setting such as {PREFIX}diversity=0.3.")
            if len(path) == 1:
                value[path[0]] = _read(text)
            else:
                parts = ("max_per", "exploration")
                _require(
                    path[0] in parts, f"{key!r} is unknown; only {' and '.join(parts)} have parts."
                )
                value[path[0]] = {**value[path[0]], path[1]: _read(text)}
        return PolicyConfig.from_json(value)


def _rules(kind: type[Rule], rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
    return [kind(**rule) for rule in rules]


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
