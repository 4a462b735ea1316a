"""``python -m trainer.off_policy``: what other exploration would have earned, by a server's logs.

A choice is one explored place of one answer. What an algorithm knows it learned from the choices
of the first part of the time, and it is judged by those of the rest, place for place: given the
items above. The reward model of the doubly robust estimate is the linear model of the first part.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from feature_repo.contract.errors import BadInput, ConfigError, ShoprecError, require
from feature_repo.contract.event_log import events_of, log_files, objects_of
from ranking.exploration.bandits import Arms, Model, worths
from ranking.exploration.choice import probabilities
from ranking.exploration.config import Algorithm, ExplorationConfig
from ranking.exploration.sums import Shown, Sums
from ranking.off_policy import Estimator, Logged, diagnose, estimate

log = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]
Id = int | str

HELP = """\
python -m trainer.off_policy exposures=FOLDER feedback=FILE.jsonl [KEY=VALUE ...]

  exposures   folder of the exposure log, such as data/feedback/exposures
  feedback    the feedback log, such as data/feedback/complete_journey.jsonl
  policies=[ranker,random,epsilon_greedy,lin_ucb,thompson]
              ranker: the best item that is left; random; or an algorithm of exploration
  state=default       whose choices are looked at, as policy.exploration names it
  settings={}         of the algorithms, as in policy.exploration: settings.prior=50
  split=0.5           share of the time that algorithms learn from
  clip=null           largest weight
  seed=0
"""

RANKER, RANDOM = "ranker", "random"


@dataclass
class OffPolicyConfig:
    """Settings of the command."""

    exposures: str = ""
    feedback: str = ""
    policies: list[str] = field(
        default_factory=lambda: [RANKER, RANDOM, "epsilon_greedy", "lin_ucb", "thompson"]
    )
    state: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    split: float = 0.5
    clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.split < 1, f"split must be between 0 and 1; got {self.split}.")
        require(self.clip is None or self.clip > 0, f"clip must be above 0; got {self.clip}.")
        known = [RANKER, RANDOM, *(one.value for one in Algorithm)]
        for name in self.policies:
            require(name in known, f"policies must be of {known}; got {name!r}.")

    def exploration(self, policy: str) -> ExplorationConfig:
        """The settings of an algorithm."""
        return ExplorationConfig.from_json({"draws": 1000, **self.settings, "algorithm": policy})


@dataclass(frozen=True)
class Choice:
    """One explored place of one answer."""

    user_id: Id
    time: str
    arms: Arms
    above: Sequence[int]
    """Arms that places above hold."""
    arm: int
    place: int
    """From 1."""
    propensity: float
    reward: float

    def shown(self, power: float) -> Shown:
        """As bandits learn from it."""
        context, expected = self.arms.context_CD[self.arm], float(self.arms.expected_C[self.arm])
        return Shown(self.arms.item_ids[self.arm], context, expected, float(self.place**-power))


def rewards_of(path: Path, values: Mapping[str, float]) -> dict[tuple[str, Id], float]:
    """(recommendation id, item) -> the highest reward of its events."""
    found: dict[tuple[str, Id], float] = {}
    for file in log_files(path):
        for event in events_of(file.read_bytes()):
            value = values.get(str(event.get("event_type")), 0.0)
            if value > 0 and event.get("recommendation_id"):
                key = str(event["recommendation_id"]), event["item_id"]
                found[key] = max(value, found.get(key, 0.0))
    return found


def choices_of(
    lines: Iterable[Mapping[str, Any]], state: str, rewards: Mapping[tuple[str, Id], float]
) -> Iterator[Choice]:
    """The choices of exposures whose arms were logged; each answer once."""
    met: set[str] = set()
    for line in lines:
        about, name = line.get("exploration"), str(line.get("recommendation_id"))
        if not about or about["state"] != state or "arms" not in about or name in met:
            continue
        met.add(name)
        arms = Arms(about["arms"], np.array(about["contexts"]), np.array(about["expected"]))
        for order, (place, arm) in enumerate(zip(about["places"], about["chosen"], strict=True)):
            yield Choice(
                line["user_id"],
                line["time"],
                arms,
                about["chosen"][:order],
                arm,
                place,
                line["propensities"][place - 1],
                rewards.get((name, arms.item_ids[arm]), 0.0),
            )


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The exposures of a folder; what is no object, such as half a line, is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            yield from objects_of(file)


def learn(choices: Sequence[Choice], power: float) -> Sums:
    """The sums of choices and their rewards."""
    sums = Sums(choices[0].arms.context_CD.shape[1])
    for choice in choices:
        shown = choice.shown(power)
        sums.add(shown.increments())
        sums.add(shown.rewards(), choice.reward)
    return sums


def judge(policy: str, config: OffPolicyConfig, sums: Sums, choices: Sequence[Choice]) -> Logged:
    """What a policy would have made of choices, by what it learned before them."""
    algorithm = Algorithm.greedy.value if policy in (RANKER, RANDOM) else policy
    settings, random = config.exploration(algorithm), np.random.default_rng(config.seed)
    model = Model.of(sums, settings)
    means = config.exploration(Algorithm.lin_ucb.value)
    means.alpha = 0.0
    target, said, direct = np.zeros((3, len(choices)))
    for number, choice in enumerate(tqdm(choices, desc=policy, disable=None)):
        left = np.ones(len(choice.arms), np.bool_)
        left[list(choice.above)] = False
        if policy in (RANKER, RANDOM):
            rows = -np.arange(len(left), dtype=np.float64)[None]
            share = float(policy == RANDOM)
        else:
            rows, share = worths(settings, model, choice.arms, random), settings.random_share
        chances = probabilities(np.where(left, rows, -np.inf), left, share)
        mean = worths(means, model, choice.arms, random)[0]
        mean *= choice.place**-settings.position_power
        target[number], said[number] = chances[choice.arm], mean[choice.arm]
        direct[number] = chances @ mean
    users = {user: code for code, user in enumerate(dict.fromkeys(c.user_id for c in choices))}
    return Logged(
        np.array([choice.reward for choice in choices]),
        np.array([choice.propensity for choice in choices]),
        np.minimum(target, 1.0),
        said,
        direct,
        np.array([users[choice.user_id] for choice in choices], np.int64),
    )


def run(config: OffPolicyConfig) -> list[dict[str, Any]]:
    """One row a policy, and one of what was logged.

    Raises:
        BadInput: there are no choices with their arms in one of the parts of the time.
    """
    power = config.exploration(Algorithm.thompson.value)
    rewards = rewards_of(Path(config.feedback), power.rewards)
    every = sorted(
        choices_of(read_lines(Path(config.exposures)), config.state, rewards), key=lambda c: c.time
    )
    first = int(config.split * len(every))
    if not 0 < first < len(every):
        raise BadInput(
            f"{config.exposures} holds {len(every)} choices of the state {config.state!r} with "
            "their arms; policies are judged by two or more."
        )
    sums, rest = learn(every[:first], power.position_power), every[first:]
    mean = float(np.mean([choice.reward for choice in rest]))
    rows: list[dict[str, Any]] = [{"policy": "as logged", "choices": len(rest), "mean": mean}]
    for policy in config.policies:
        logged = judge(policy, config, sums, rest)
        weights = diagnose(logged, config.clip)
        row: dict[str, Any] = {"policy": policy}
        for kind in (Estimator.ips, Estimator.snips, Estimator.doubly_robust):
            try:
                found = estimate(logged, kind, config.clip)
                row[kind.value] = [found.value, found.low, found.high]
            except BadInput:
                row[kind.value] = None  # it makes none of the choices
        row |= {"effective_size": weights.effective_size, "largest_weight": weights.largest}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 where the logs or the settings do not hold."""
    given = sys.argv[1:] if arguments is None else [*arguments]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not given or {"-h", "--help"} & set(given):
        sys.stdout.write(HELP)
        return 0
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(OffPolicyConfig), OmegaConf.from_dotlist(given)
        )
        config = OmegaConf.to_object(merged)
        assert isinstance(config, OffPolicyConfig)
        if not config.exposures or not config.feedback:
            raise ConfigError("Name the logs: exposures=FOLDER feedback=FILE.jsonl.")
        sys.stdout.write("".join(f"{_text(row)}\n" for row in run(config)))
    except OmegaConfBaseException as error:
        sys.stderr.write(f"{str(error).splitlines()[0]}\n{HELP}")
        return 1
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _text(row: Mapping[str, Any]) -> str:
    parts = [f"{row['policy']:<15}"]
    for name, value in row.items():
        match value:
            case [middle, low, high]:
                parts.append(f"{name} {middle:.4f} [{low:.4f}, {high:.4f}]")
            case float():
                parts.append(f"{name} {value:.4g}")
            case int():
                parts.append(f"{name} {value:,}")
            case None:
                parts.append(f"{name} -")
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
