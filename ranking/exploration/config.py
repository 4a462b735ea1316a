"""Settings of exploration, one for each scenario that explores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from feature_repo.contract.errors import ConfigError, require


class Algorithm(Enum):
    """Which bandit chooses; see ``ranking.exploration.bandits``."""

    greedy = "greedy"
    """The item with the best mean of rewards so far: learns, without exploring."""
    epsilon_greedy = "epsilon_greedy"
    ucb1 = "ucb1"
    lin_ucb = "lin_ucb"
    thompson = "thompson"
    """Thompson sampling of the linear model that ``lin_ucb`` has too."""
    beta_thompson = "beta_thompson"
    """Thompson sampling of each item's own rate, without context."""


def _events() -> dict[str, float]:
    return {"click": 1.0, "add_to_cart": 1.0, "purchase": 1.0}


@dataclass
class ExplorationConfig:
    """How some places of a list are given to items of which too little is known."""

    algorithm: Algorithm = Algorithm.thompson
    places: list[int] = field(default_factory=lambda: [3, 6, 9])
    """Places, from 1, that are explored; the others hold the best items as ever. Empty: all."""
    arms: int = 50
    """Items of the ranked list's head among which is chosen. The policy's caps hold for the whole
    head; minimum exposure is of the head too, and not promised for the list."""
    epsilon: float = 0.1
    """Share of random choices of ``epsilon_greedy``."""
    floor: float = 0.02
    """Share of random choices of the other algorithms, so that every arm has a propensity above 0;
    0: none, and off-policy evaluation is limited to what the algorithm could show."""
    alpha: float = 1.0
    """Width of the confidence bounds of ``lin_ucb``, in standard deviations; of ``ucb1``, times
    sqrt(2 ln t / n)."""
    prior: float = 20.0
    """For how many times that it was shown the ranker's expectation of an item counts."""
    expected: float = 0.05
    """Mean reward of the ranker's first item, where the ranker is not calibrated; the expectation
    of the others falls as the discount of NDCG."""
    draws: int = 100
    """Of Thompson sampling; a propensity is a multiple of 1 / draws, see
    ``ranking.exploration.choice``."""
    position_power: float = 0.0
    """A place p is looked at p ** -power times as often as the first (position-based model)."""
    rewards: dict[str, float] = field(default_factory=_events)
    """Type of a feedback event -> its reward, to 1; of several events of an item shown the highest
    counts."""
    reward_s: float = 86_400.0
    """Seconds after an answer in which feedback on it counts."""
    state: str = ""
    """What is learned is shared with others that name the same; by default the scenario's name."""
    log_arms: bool = True
    """Whether the exposure log has all arms with their contexts, about 4 KB an answer, by which
    other algorithms can be evaluated (``python -m trainer.off_policy``)."""

    def __post_init__(self) -> None:
        sound = all(type(place) is int and place >= 1 for place in self.places)
        require(
            sound and len(set(self.places)) == len(self.places),
            _said("places", self.places, "distinct numbers from 1"),
        )
        for name, least in (("arms", 2), ("draws", 1)):
            value = getattr(self, name)
            require(type(value) is int and value >= least, _said(name, value, f"{least} or more"))
        for name in ("epsilon", "floor"):
            value = getattr(self, name)
            require(0 <= value <= 1, _said(name, value, "from 0 to 1"))
        require(0 < self.expected < 1, _said("expected", self.expected, "between 0 and 1"))
        for name in ("prior", "reward_s"):
            value = getattr(self, name)
            require(0 < value < math.inf, _said(name, value, "above 0"))
        for name in ("alpha", "position_power"):
            value = getattr(self, name)
            require(0 <= value < math.inf, _said(name, value, "0 or more"))
        sound = bool(self.rewards) and all(0 < value <= 1 for value in self.rewards.values())
        require(sound, _said("rewards", self.rewards, "event types with rewards up to 1"))

    @property
    def random_share(self) -> float:
        """Of the choices, those that are uniform over the arms."""
        return self.epsilon if self.algorithm is Algorithm.epsilon_greedy else self.floor

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them; ``from_json`` reads them back."""
        return {**asdict(self), "algorithm": self.algorithm.value}

    @staticmethod
    def from_json(value: Mapping[str, Any] | str) -> ExplorationConfig:
        """Read settings, or the name of an algorithm alone.

        Raises:
            ConfigError: a key is unknown, or a value out of range or of a wrong type.
        """
        given: dict[str, Any] = {"algorithm": value} if isinstance(value, str) else dict(value)
        known = [item.name for item in fields(ExplorationConfig)]
        unknown = sorted(set(given) - set(known))
        require(not unknown, f"exploration has no setting {unknown}; settings are {known}.")
        try:
            if "algorithm" in given:
                given["algorithm"] = Algorithm(given["algorithm"])
            return ExplorationConfig(**given)
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"The settings of exploration do not hold: {error}.") from error


def _said(name: str, value: object, expected: str) -> str:
    return f"exploration's {name} must be {expected}; got {value}."
