"""Off-policy evaluation on the Open Bandit sample: our estimators against the library obp's.

A shop of fashion showed three items at a time by two policies, one uniform and one Thompson
sampling, and logged the propensity of each (Saito et al., "Open Bandit Dataset and Pipeline",
2020). Each policy is judged by the log of the other, and its own log says what it earned. obp is no
dependency: where it can be imported it is run on the same inputs, else what it said is here
(``OBP``), so that a difference is seen either way.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pc

from benchmarks._command import run_command
from benchmarks._report import save, table
from feature_repo.contract.errors import BadInput, ConfigError
from ranking.off_policy import Estimator, Logged, bootstrap, diagnose, estimate

log = logging.getLogger("benchmarks.off_policy")

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.off_policy [KEY=VALUE ...]

  obd=data/obd_sample  folder with random/all/all.csv and bts/all/all.csv
  folds=2              of the reward model, which is not fitted on the choices that it judges
  strength=20          impressions of the mean rate that a cell of the reward model begins with
  rounds=1000          of the bootstrap
  seed=0
  name=off_policy      benchmarks/results/<name>.json
"""

PLACES = 3
Said = tuple[float, float, float]
"""Value of a policy, and the ends of its interval."""
OBP: dict[tuple[str, str], Said] = {
    ("bts", "ips"): (0.005035366933, 0.002758447761, 0.007716385550),
    ("bts", "snips"): (0.005253072196, 0.002877709893, 0.008050005278),
    ("bts", "direct"): (0.004377478564, 0.004355393541, 0.004400990626),
    ("bts", "doubly_robust"): (0.005246505016, 0.002943193809, 0.007988031886),
    ("random", "ips"): (0.002186873762, 0.000987714194, 0.003807243964),
    ("random", "snips"): (0.002179566042, 0.000984413620, 0.003794521568),
    ("random", "direct"): (0.004217870294, 0.004204452934, 0.004231523732),
    ("random", "doubly_robust"): (0.002502805085, 0.001239389868, 0.004137230449),
}
"""(policy that is judged, estimator) -> what obp 0.4.1 says with the default settings."""


@dataclass
class Config:
    """Settings of the benchmark."""

    obd: str = "data/obd_sample"
    folds: int = 2
    strength: float = 20.0
    rounds: int = 1000
    seed: int = 0
    name: str = "off_policy"

    def __post_init__(self) -> None:
        if self.folds < 2 or self.rounds < 10 or self.strength <= 0:
            raise ConfigError("folds must be at least 2, rounds at least 10 and strength above 0.")

    @property
    def inputs(self) -> tuple[float, ...]:
        """What the estimates depend on."""
        return self.folds, self.strength, self.rounds, self.seed


@dataclass(frozen=True)
class Log:
    """Impressions of one policy."""

    item_N: Ints
    place_N: Ints
    """From 0."""
    click_N: Doubles
    propensity_N: Doubles

    @staticmethod
    def read(folder: Path, policy: str) -> Log:
        """One file of the sample.

        Raises:
            BadInput: it is not there.
        """
        path = folder / policy / "all" / "all.csv"
        if not path.exists():
            raise BadInput(f"{path} is not there; the sample is in the wheel obp==0.4.1.")
        columns = ["item_id", "position", "click", "propensity_score"]
        rows = pc.read_csv(path, convert_options=pc.ConvertOptions(include_columns=columns))
        item, place, click, propensity = (rows.column(name).to_numpy() for name in columns)
        return Log(item, place - 1, click.astype(np.float64), propensity)

    @property
    def num_items(self) -> int:
        """How many there are."""
        return int(self.item_N.max()) + 1


def shares(log: Log, num_items: int) -> Doubles:
    """[A, 3] how often a policy shows each item at each place, by its own log."""
    counts = np.zeros((num_items, PLACES))
    np.add.at(counts, (log.item_N, log.place_N), 1.0)
    return np.asarray(counts / counts.sum(axis=0))


def expected(log: Log, num_items: int, config: Config) -> Doubles:
    """[N, A, 3] click rates of items at places, fitted on the choices of other folds."""
    fold_N = np.random.default_rng(config.seed).integers(0, config.folds, len(log.item_N))
    found = np.zeros((len(fold_N), num_items, PLACES))
    for fold in range(config.folds):
        other = fold_N != fold
        shown, clicks = np.zeros((2, num_items, PLACES))
        np.add.at(shown, (log.item_N[other], log.place_N[other]), 1.0)
        np.add.at(clicks, (log.item_N[other], log.place_N[other]), log.click_N[other])
        mean = log.click_N[other].mean()
        found[~other] = (clicks + config.strength * mean) / (shown + config.strength)
    return found


def logged_of(log: Log, target_AP: Doubles, expected_NAP: Doubles) -> Logged:
    """The log as the estimators take it."""
    rows = np.arange(len(log.item_N))
    at_place_NA = expected_NAP[rows, :, log.place_N]
    target_NA = target_AP[:, log.place_N].T
    return Logged(
        reward_N=log.click_N,
        propensity_N=log.propensity_N,
        target_N=target_NA[rows, log.item_N],
        said_N=at_place_NA[rows, log.item_N],
        direct_N=(at_place_NA * target_NA).sum(axis=1),
    )


def by_obp(log: Log, target_AP: Doubles, expected_NAP: Doubles, config: Config) -> dict[str, Said]:
    """What obp says of the same inputs, by estimator."""
    ope = importlib.import_module("obp.ope")
    feedback = {"reward": log.click_N, "action": log.item_N, "position": log.place_N}
    inputs = {
        **feedback,
        "pscore": log.propensity_N,
        "action_dist": np.repeat(target_AP[None], len(log.item_N), axis=0),
        "estimated_rewards_by_reg_model": expected_NAP,
    }
    kinds = {
        Estimator.ips: ope.InverseProbabilityWeighting(),
        Estimator.snips: ope.SelfNormalizedInverseProbabilityWeighting(),
        Estimator.direct: ope.DirectMethod(),
        Estimator.doubly_robust: ope.DoublyRobust(),
    }
    found = {}
    for one, kind in kinds.items():
        value = float(kind.estimate_policy_value(**inputs))
        ends = kind.estimate_interval(
            **inputs, n_bootstrap_samples=config.rounds, random_state=config.seed
        )
        low, high = (float(ends[f"95.0% CI ({end})"]) for end in ("lower", "upper"))
        found[one.value] = value, low, high
    return found


def judged(name: str, own: Log, other: Log, config: Config) -> list[dict[str, Any]]:
    """One row an estimator: a policy that has a log of its own, judged by the log of another."""
    num_items = max(own.num_items, other.num_items)
    target, model = shares(own, num_items), expected(other, num_items, config)
    logged = logged_of(other, target, model)
    weights = diagnose(logged)
    peers = {own: said for (policy, own), said in OBP.items() if policy == name}
    if importlib.util.find_spec("obp") is not None:
        peers = by_obp(other, target, model, config)
    elif config.inputs != Config().inputs:
        peers = {}
    rows = []
    for kind in Estimator:
        found = estimate(logged, kind)
        random = np.random.default_rng(config.seed)
        again = bootstrap(logged, kind, random, rounds=config.rounds)
        peer = peers.get(kind.value)
        row = {
            "policy": name,
            "estimator": kind.value,
            "clicks_per_1000": 1000 * found.value,
            "low": 1000 * found.low,
            "high": 1000 * found.high,
            "bootstrap_low": 1000 * again.low,
            "bootstrap_high": 1000 * again.high,
            "obp": None if peer is None else 1000 * peer[0],
            "obp_low": None if peer is None else 1000 * peer[1],
            "obp_high": None if peer is None else 1000 * peer[2],
            "difference": None if peer is None else abs(peer[0] - found.value) * 1000,
            "own_log": 1000 * float(own.click_N.mean()),
            "effective_size": weights.effective_size,
            "largest_weight": weights.largest,
        }
        rows.append(row)
    return rows


def run(config: Config) -> list[dict[str, Any]]:
    """Both policies."""
    folder = Path(config.obd)
    random, bts = Log.read(folder, "random"), Log.read(folder, "bts")
    return [*judged("bts", bts, random, config), *judged("random", random, bts, config)]


def report(config: Config) -> None:
    """Judge, print and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows = run(config)
    sys.stdout.write(table(rows))
    log.info("Written to %s.", save(config.name, asdict(config), rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
