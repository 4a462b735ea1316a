"""How often the statistics of experiments are wrong: simulations without and with an effect.

Each round deals new users by the server's own hash under a new salt, simulates what they do, and
judges them as ``python -m serving.experiments report`` does. In A/A rounds nothing differs, so that
every p below 0.05 is a false alarm, and 5% of them are what the intervals promise. In A/B rounds
users of one variant order and click more often. Then the hash alone: whether users are spread
evenly, and whether layers are independent.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from tqdm import tqdm

from benchmarks._command import run_command
from benchmarks._experiment_shop import simulate
from benchmarks._report import save, table
from feature_repo.contract.errors import ConfigError
from serving.experiments.assignment import unit, variant_of
from serving.experiments.config import Experiment
from serving.experiments.outcomes import Outcomes
from serving.experiments.report import GUARDS, METRICS, Metric, measure
from serving.experiments.statistics import SRM_ALARM, Comparison, sample_ratio

log = logging.getLogger("benchmarks.experiments")

Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.experiments [KEY=VALUE ...]

  users=2000        of each round
  rounds=2000       A/A simulations
  effects=300       A/B simulations
  lift=0.1          users of the one variant order and click more often by this share
  lost=0.2          share of a variant's users that are lost where the split is broken
  salts=200         under which users are spread over 100 parts, and over pairs of layers
  hashed=50000      users of each
  seed=0
  name=experiments  benchmarks/results/<name>.json
"""

ALPHA = 0.05
"""What the 95% intervals promise."""
PARTS, VARIANTS = 100, 3
"""Into which users are spread, and variants of a layer."""


@dataclass
class Config:
    """Settings of the benchmark."""

    users: int = 2000
    rounds: int = 2000
    effects: int = 300
    lift: float = 0.1
    lost: float = 0.2
    salts: int = 200
    hashed: int = 50_000
    seed: int = 0
    name: str = "experiments"

    def __post_init__(self) -> None:
        for name in ("users", "rounds", "effects", "salts", "hashed"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} must be at least 2; got {getattr(self, name)}.")
        if not 0 < self.lift < 1 or not 0 < self.lost < 1:
            raise ConfigError("lift and lost must be between 0 and 1.")


def experiment(salt: str) -> Experiment:
    """Two variants of equal weight under a salt."""
    variants: dict[str, Any] = {"control": {}, "other": {}}
    value = {"start": "2026-01-01", "end": "2026-02-01", "variants": variants, "salt": salt}
    return Experiment.model_validate({"name": "simulated", **value})


def dealt(user_ids: Iterable[int], salt: str) -> Ints:
    """[U] the variants of users, by the server's hash."""
    dealing = experiment(salt)
    return np.array([variant_of(dealing, one) != dealing.control for one in user_ids], np.int64)


def rounds(config: Config, count: int, lift: float) -> list[Outcomes]:
    """Simulated experiments, each of new users and under a salt of its own."""
    kind = "A/A" if lift == 0 else "A/B"
    found = []
    for number in tqdm(range(count), desc=f"{kind} rounds", disable=None):
        random = np.random.default_rng([config.seed, number, int(lift > 0)])
        user_ids = random.integers(1, 2**62, config.users).tolist()
        variant = dealt(user_ids, f"{kind} {config.seed} {number}")
        found.append(simulate(random, user_ids, variant, lift))
    return found


def p_of(comparison: Comparison) -> float:
    """Of the only variant beside the control; 1 where nothing can be said."""
    p = comparison.differences[0].p
    return 1.0 if p is None else p


def error_rates(aa: Sequence[Outcomes], ab: Sequence[Outcomes]) -> list[dict[str, Any]]:
    """One row a metric: how often p is below 0.05 without an effect, and with one."""
    bar = tqdm([*METRICS, *GUARDS], desc="metrics", disable=None)
    return [_rates(metric, aa, ab) for metric in bar]


def _rates(metric: Metric, aa: Sequence[Outcomes], ab: Sequence[Outcomes]) -> dict[str, Any]:
    without, without_cuped, less = _judged(metric, aa)
    effect, effect_cuped, _ = _judged(metric, ab)
    low, high = stats.binomtest(sum(without), len(aa)).proportion_ci(method="wilson")
    return {
        "metric": metric.name,
        "false_alarms": sum(without) / len(aa),
        "from": float(low),
        "to": float(high),
        "with_cuped": sum(without_cuped) / len(aa),
        "variance_less": less,
        "found": sum(effect) / len(ab),
        "found_with_cuped": sum(effect_cuped) / len(ab),
    }


def _judged(metric: Metric, outcomes: Sequence[Outcomes]) -> tuple[list[bool], list[bool], float]:
    """Per round whether the two variants differ, plain and after CUPED, and what CUPED explains."""
    plain, after, explained = [], [], []
    for one in outcomes:
        found = measure(metric, one, 2, one.columns["before"])
        assert found.cuped is not None
        plain.append(p_of(found.plain) < ALPHA)
        after.append(p_of(found.cuped) < ALPHA)
        explained.append(found.cuped.explained or 0.0)
    return plain, after, float(np.mean(explained))


def split_rates(config: Config, aa: Sequence[Outcomes]) -> list[dict[str, Any]]:
    """How often the sample ratio raises its alarm: as users are dealt, and where some are lost."""
    counts = [np.bincount(one.variant_U, minlength=2) for one in aa]
    keep = np.array([1.0, 1.0 - config.lost])
    broken = [np.floor(own * keep).astype(np.int64) for own in counts]
    rows = []
    for name, numbers in (("as dealt", counts), (f"{config.lost:.0%} of one lost", broken)):
        p = np.array([sample_ratio(own, [1.0, 1.0]) for own in numbers], np.float64)
        alarms, below = (p < SRM_ALARM).mean(), (p < ALPHA).mean()
        rows.append({"split": name, "alarms": float(alarms), "p_below_0.05": float(below)})
    return rows


def spread(config: Config) -> list[dict[str, Any]]:
    """Whether the hash is uniform and layers are independent: p of chi-square under many salts."""
    whole, text = list(range(config.hashed)), [f"u-{n}" for n in range(config.hashed)]
    salts = [f"{config.seed} {number}" for number in range(config.salts)]
    uniform, layers = [], []
    for number, salt in enumerate(tqdm(salts, desc="salts", disable=None)):
        ids: Sequence[int | str] = whole if number % 2 else text
        one, two = (np.array([unit(f"{salt} {side}", own) for own in ids]) for side in "ab")
        parts = np.bincount((PARTS * one).astype(np.int64), minlength=PARTS)
        uniform.append(float(stats.chisquare(parts).pvalue))
        cells = VARIANTS * (VARIANTS * one).astype(int) + (VARIANTS * two).astype(int)
        pairs = np.bincount(cells, minlength=VARIANTS**2).reshape(VARIANTS, VARIANTS)
        layers.append(float(stats.chi2_contingency(pairs).pvalue))
    tests = ((f"users over {PARTS} parts", uniform), ("variants of two layers", layers))
    return [_spread(name, p) for name, p in tests]


def _spread(name: str, p: Sequence[float]) -> dict[str, Any]:
    return {
        "chi_square": name,
        "salts": len(p),
        "p_below_0.05": float((np.array(p) < ALPHA).mean()),
        "least_p": min(p),
        "ks_p": float(stats.kstest(p, "uniform").pvalue),
    }


def run(config: Config) -> dict[str, list[dict[str, Any]]]:
    """All rows, by table."""
    aa = rounds(config, config.rounds, 0.0)
    ab = rounds(config, config.effects, config.lift)
    return {
        "metrics": error_rates(aa, ab),
        "sample ratio": split_rates(config, aa),
        "hash": spread(config),
    }


def report(config: Config) -> None:
    """Simulate, print and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    found = run(config)
    for rows in found.values():
        sys.stdout.write(f"{table(rows)}\n")
    every = [{"table": name, **row} for name, rows in found.items() for row in rows]
    log.info("Written to %s.", save(config.name, asdict(config), every))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
