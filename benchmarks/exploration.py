"""Regret of bandits on a simulated shop with planted preferences, and the new items that they find.

Every policy fills lists for the same users, candidates and luck, by the code that serves
(``ranking.exploration``); sums reach the policy some requests late, as from a store that is read
once a second. Regret is what the best list of the head would have earned in the mean, less what
the list does. A good new item is found when, in the last quarter of the time, it is shown at least
half as often as by whoever knows all rates.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks._command import run_command
from benchmarks._exploring_shop import Shop, looks
from benchmarks._report import RESULTS, save, table
from feature_repo.contract.errors import ConfigError
from ranking.exploration.bandits import Arms, Model, worths
from ranking.exploration.choice import choose
from ranking.exploration.config import Algorithm, ExplorationConfig
from ranking.exploration.contexts import DIM, contexts, expectations
from ranking.exploration.sums import Shown, Sums, added

log = logging.getLogger("benchmarks.exploration")

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.exploration [KEY=VALUE ...]

  requests=20000   of each policy and seed
  seeds=5
  n=5              places of a list, all of which are explored
  items=400        of the shop
  new=100          of them, new to the ranker
  found=120        candidates of a request
  arms=50          of its head, among which is chosen
  power=0.5        a place p is looked at p ** -power times as often as the first
  late=50          requests after which sums reach the policies
  epsilon=0.1
  floor=0.01
  name=exploration benchmarks/results/<name>.json and <name>.png
"""

RANKER, RANDOM, ORACLE = "ranker", "random", "oracle"
POLICIES = (RANKER, RANDOM, *(algorithm.value for algorithm in Algorithm))
POINTS = 100
"""Of a curve."""
GOOD = 0.75
"""Quantile of the new items' mean rates above which one is good."""
LAST = 0.75
"""Share of the time after which it is counted what is shown."""


@dataclass
class Config:
    """Settings of the benchmark."""

    requests: int = 20_000
    seeds: int = 5
    n: int = 5
    items: int = 400
    new: int = 100
    found: int = 120
    arms: int = 50
    power: float = 0.5
    late: int = 50
    epsilon: float = 0.1
    floor: float = 0.01
    name: str = "exploration"

    def __post_init__(self) -> None:
        if not 0 < self.new < self.items or not self.n <= self.arms <= self.found:
            raise ConfigError("new must be below items, n at most arms and arms at most found.")
        for name in ("requests", "seeds", "n", "late"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}.")

    def exploration(self, algorithm: Algorithm) -> ExplorationConfig:
        """The settings of one policy."""
        return ExplorationConfig(
            algorithm,
            places=[],
            arms=self.arms,
            epsilon=self.epsilon,
            floor=0.0 if algorithm is Algorithm.greedy else self.floor,
            position_power=self.power,
        )


@dataclass
class Played:
    """What one policy did in one shop."""

    regret_T: Doubles
    """Of each request."""
    shown_I: Ints
    """How often each item was shown in the last part of the time."""
    seconds: float = 0.0
    """That choosing took."""


@dataclass
class Player:
    """One policy, and what it has learned."""

    name: str
    config: ExplorationConfig
    random: np.random.Generator
    sums: Sums = field(default_factory=lambda: Sums(DIM))
    waiting: list[dict[str, Doubles]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = Model.of(self.sums, self.config)

    def list_of(self, arms: Arms, n: int) -> Ints:
        """[n] arms, best first."""
        if self.name == RANKER:
            return np.arange(n)
        if self.name == RANDOM:
            return choose(np.zeros((1, len(arms))), 1.0, n, self.random).arm_P
        found = worths(self.config, self.model, arms, self.random)
        return choose(found, self.config.random_share, n, self.random).arm_P

    def hear(self, arms: Arms, arm_P: Ints, click_P: npt.NDArray[np.bool_]) -> None:
        """What came of a list; learned at the next ``refresh``."""
        weights = looks(len(arm_P), self.config.position_power).tolist()
        for arm, click, weight in zip(arm_P.tolist(), click_P.tolist(), weights, strict=True):
            context, expected = arms.context_CD[arm], float(arms.expected_C[arm])
            one = Shown(arms.item_ids[arm], context, expected, weight)
            self.waiting.append(one.increments())
            if click:
                self.waiting.append(one.rewards())

    def refresh(self) -> None:
        """Learn what was heard."""
        self.sums.add(added(self.waiting))
        self.waiting.clear()
        self.model = Model.of(self.sums, self.config)


def player(name: str, config: Config, seed: int) -> Player:
    """A policy that knows nothing yet."""
    static = name in (RANKER, RANDOM, ORACLE)
    algorithm = Algorithm.greedy if static else Algorithm(name)
    return Player(name, config.exploration(algorithm), np.random.default_rng([seed, 2]))


def play(name: str, config: Config, seed: int) -> Played:
    """One policy in the shop of a seed."""
    shop = Shop.of(np.random.default_rng([seed, 0]), config.items, config.new)
    users, own = np.random.default_rng([seed, 1]), player(name, config, seed)
    learns = name not in (RANKER, RANDOM, ORACLE)
    weight_P, regret = looks(config.n, config.power), np.zeros(config.requests)
    shown, spent = np.zeros(config.items, np.int64), 0.0
    for number in range(config.requests):
        segment, item_C = shop.request(users, number / config.requests, config.found, config.arms)
        luck = users.random(config.n)
        rate_C = shop.rate_GI[segment, item_C]
        best = np.sort(rate_C)[::-1][: config.n]
        started = time.perf_counter()
        if name == ORACLE:
            arm_P = np.argsort(-rate_C, kind="stable")[: config.n]
        else:
            arms = _arms(shop, segment, item_C)
            arm_P = own.list_of(arms, config.n)
        spent += time.perf_counter() - started
        regret[number] = ((best - rate_C[arm_P]) * weight_P).sum()
        if learns:
            own.hear(arms, arm_P, luck < rate_C[arm_P] * weight_P)
            if (number + 1) % config.late == 0:
                own.refresh()
        if number >= LAST * config.requests:
            shown[item_C[arm_P]] += 1
    return Played(regret, shown, spent)


def _arms(shop: Shop, segment: int, item_C: Ints) -> Arms:
    facts = shop.facts(segment, item_C)
    return Arms(item_C.tolist(), contexts(facts), expectations(facts.score_C, 0.05, SIGMOID))


class _Sigmoid:
    """The simulated ranker's logits are those of its clicks."""

    def probabilities(self, logits_N: npt.NDArray[np.floating]) -> Doubles:
        """See ``Calibration``."""
        return np.asarray(1.0 / (1.0 + np.exp(-logits_N)), dtype=np.float64)


SIGMOID = _Sigmoid()


def good_items(config: Config, seed: int, oracle: Played) -> Ints:
    """New items that are good, and that whoever knows all rates shows."""
    shop = Shop.of(np.random.default_rng([seed, 0]), config.items, config.new)
    mean = shop.rate_GI.mean(axis=0)
    good = shop.new_I & (mean >= np.quantile(mean[shop.new_I], GOOD)) & (oracle.shown_I > 0)
    return np.flatnonzero(good)


def run(config: Config) -> tuple[list[dict[str, Any]], dict[str, Doubles]]:
    """One row a policy, and its curves of cumulative regret, [seeds, points]."""
    played: dict[str, list[Played]] = {name: [] for name in (*POLICIES, ORACLE)}
    bar = tqdm(total=len(played) * config.seeds, desc="policies x seeds", disable=None)
    for seed in range(config.seeds):
        for name, found in played.items():
            found.append(play(name, config, seed))
            bar.update()
    bar.close()
    rows = [_row(name, played[name], played[ORACLE], config) for name in POLICIES]
    marks = np.linspace(0, config.requests - 1, POINTS).astype(np.int64)
    curves = {
        name: np.array([one.regret_T.cumsum()[marks] for one in played[name]]) for name in POLICIES
    }
    return rows, curves


def _row(
    name: str, played: Sequence[Played], oracle: Sequence[Played], config: Config
) -> dict[str, Any]:
    totals = np.array([one.regret_T.sum() for one in played])
    late = np.array([one.regret_T[int(LAST * config.requests) :].mean() for one in played])
    found, there = 0, 0
    for seed, (one, best) in enumerate(zip(played, oracle, strict=True)):
        good = good_items(config, seed, best)
        found += int((one.shown_I[good] >= 0.5 * best.shown_I[good]).sum())
        there += len(good)
    spread = float(totals.std(ddof=1)) if len(totals) > 1 else 0.0
    return {
        "policy": name,
        "regret": float(totals.mean()),
        "spread": spread,
        "last_quarter_a_request": float(late.mean()),
        "new_items_found": found / max(there, 1),
        "of": there,
        "us_a_list": 1e6 * sum(one.seconds for one in played) / config.requests / len(played),
    }


def draw(path: Path, config: Config, curves: dict[str, Doubles]) -> None:
    """Write the curves as a PNG: the mean over seeds, and its range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    requests = np.linspace(1, config.requests, POINTS)
    for name, regret in curves.items():
        (line,) = axes.plot(requests, regret.mean(axis=0), label=name)
        axes.fill_between(
            requests, regret.min(axis=0), regret.max(axis=0), alpha=0.15, color=line.get_color()
        )
    axes.axvline(config.requests / 3, color="grey", linestyle=":", linewidth=1)
    axes.set_xlabel("requests (half of the new items come at the dotted line)")
    axes.set_ylabel("clicks lost against the best lists")
    axes.set_title(f"Cumulative regret, {config.seeds} simulated shops: mean and range")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(config: Config) -> None:
    """Play, print, and write the result and the plot."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows, curves = run(config)
    sys.stdout.write(table(rows))
    picture = RESULTS / f"{config.name}.png"
    draw(picture, config, curves)
    log.info("Written to %s and %s.", save(config.name, asdict(config), rows), picture)


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
