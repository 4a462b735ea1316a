"""Training on the clicks of one's own lists: plain, and weighted by inverse propensities.

In the simulated shop of ``benchmarks.exploration`` a ranker's lists are logged, some places of them
explored. A new ranker learns from the clicks by the listwise loss of ``trainer.ranker``, in which
what was not shown counts as not wanted, so that it learns what was shown. ``propensity_power``
counts a click 1 / (propensity x how often its place is looked at) ** power, by the trainer's own
``trainer.ranker_weights.inverse``. Told is what lists of each ranker earn among new users.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from benchmarks._command import run_command
from benchmarks._exploring_shop import CATEGORIES, SEGMENTS, Shop, looks
from benchmarks._report import save, table
from feature_repo.contract.errors import ConfigError
from ranking.exploration.choice import choose
from trainer.ranker_weights import inverse

log = logging.getLogger("benchmarks.counterfactual")

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.counterfactual [KEY=VALUE ...]

  requests=20000       that are logged
  seeds=5
  n=5                  places of a list
  explored=2           of them, the last ones, given to arms at random
  arms=50              of a head
  power=0.5            a place p is looked at p ** -power times as often as the first
  floor=0.02           smallest propensity that counts
  epochs=20
  name=counterfactual  benchmarks/results/<name>.json
"""

POWERS = (0.0, 0.5, 1.0)
JUDGED = 4000
"""Requests of new users."""
FOUND, ITEMS, NEW = 120, 400, 100
BATCH, RATE = 256, 0.05


@dataclass
class Config:
    """Settings of the benchmark."""

    requests: int = 20_000
    seeds: int = 5
    n: int = 5
    explored: int = 2
    arms: int = 50
    power: float = 0.5
    floor: float = 0.02
    epochs: int = 20
    name: str = "counterfactual"

    def __post_init__(self) -> None:
        if not 0 < self.explored < self.n <= self.arms <= FOUND:
            raise ConfigError(f"explored must be below n, and n at most arms, at most {FOUND}.")


@dataclass(frozen=True)
class Log:
    """Lists that were shown, R requests of C arms each."""

    segment_R: Ints
    item_RC: Ints
    label_RC: Doubles
    """1 where clicked."""
    propensity_RC: Doubles
    """That the item was shown, times how often its place is looked at; 1 where it was not shown."""


def logged(shop: Shop, random: np.random.Generator, config: Config) -> Log:
    """What the shop's ranker shows, and what is clicked."""
    weight_P, rows = looks(config.n, config.power), []
    best = config.n - config.explored
    for _ in range(config.requests):
        segment, item_C = shop.request(random, 1.0, FOUND, config.arms)
        made = choose(np.zeros((1, config.arms - best)), 1.0, config.explored, random)
        arm_P = np.concatenate([np.arange(best), best + made.arm_P])
        chance_P = np.concatenate([np.ones(best), made.propensity_P]) * weight_P
        rate_P = shop.rate_GI[segment, item_C[arm_P]] * weight_P
        label, propensity = np.zeros(config.arms), np.ones(config.arms)
        label[arm_P], propensity[arm_P] = random.random(config.n) < rate_P, chance_P
        rows.append((segment, item_C, label, propensity))
    segments, heads, labels, shown = zip(*rows, strict=True)
    return Log(np.array(segments), np.array(heads), np.array(labels), np.array(shown))


class Ranker(torch.nn.Module):
    """A logit of each item, and one of each segment with each category."""

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(len(shop.category_I), 1)
        self.tastes = torch.nn.Embedding(SEGMENTS * CATEGORIES, 1)
        self._category = torch.from_numpy(shop.category_I)
        for part in (self.items, self.tastes):
            torch.nn.init.zeros_(part.weight)

    def forward(self, segment_R: torch.Tensor, item_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] logits."""
        cell = segment_R[:, None] * CATEGORIES + self._category[item_RC]
        return (self.items(item_RC) + self.tastes(cell)).squeeze(-1)  # type: ignore[no-any-return]


def trained(shop: Shop, log: Log, power: float, config: Config) -> Ranker:
    """A ranker that learned from the log."""
    torch.manual_seed(0)
    gains = log.label_RC * inverse(log.propensity_RC, power, config.floor)
    clicked = np.flatnonzero(gains.sum(axis=1))
    gain_RC = torch.from_numpy(gains[clicked] / gains[gains > 0].mean()).float()
    segment_R, item_RC = (torch.from_numpy(own[clicked]) for own in (log.segment_R, log.item_RC))
    ranker = Ranker(shop)
    optimizer = torch.optim.Adam(ranker.parameters(), lr=RATE)
    for _ in range(config.epochs):
        for some in torch.randperm(len(clicked)).split(BATCH):
            logit = ranker(segment_R[some], item_RC[some])
            loss = -(gain_RC[some] * logit.log_softmax(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return ranker


def earned(shop: Shop, score_GI: Doubles, config: Config, seed: int) -> tuple[float, float]:
    """Clicks of a list among new users in the mean, and of the best list."""
    random, weight_P = np.random.default_rng([seed, 9]), looks(config.n, config.power)
    own, best = [], []
    for _ in range(JUDGED):
        segment, item_C = shop.request(random, 1.0, FOUND, config.arms)
        rate_C = shop.rate_GI[segment, item_C]
        order = np.argsort(-score_GI[segment, item_C], kind="stable")[: config.n]
        own.append((rate_C[order] * weight_P).sum())
        best.append((np.sort(rate_C)[::-1][: config.n] * weight_P).sum())
    return float(np.mean(own)), float(np.mean(best))


def scores(shop: Shop, ranker: Ranker) -> Doubles:
    """[G, I] logits."""
    items = torch.arange(len(shop.category_I)).expand(SEGMENTS, -1)
    with torch.inference_mode():
        return ranker(torch.arange(SEGMENTS), items).double().numpy()  # type: ignore[no-any-return]


def run(config: Config) -> list[dict[str, Any]]:
    """One row a ranker, in the mean over shops."""
    names = ["that was logged", *(f"propensity_power={power:g}" for power in POWERS)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for seed in tqdm(range(config.seeds), desc="shops", disable=None):
        shop = Shop.of(np.random.default_rng([seed, 0]), ITEMS, NEW)
        lists = logged(shop, np.random.default_rng([seed, 1]), config)
        found[names[0]].append(earned(shop, shop.score_GI, config, seed))
        for name, power in zip(names[1:], POWERS, strict=True):
            learned = scores(shop, trained(shop, lists, power, config))
            found[name].append(earned(shop, learned, config, seed))
    return [_row(name, np.array(pairs), np.array(found[names[1]])) for name, pairs in found.items()]


def _row(name: str, pairs_S2: Doubles, plain_S2: Doubles) -> dict[str, Any]:
    shares, plain = (own[:, 0] / own[:, 1] for own in (pairs_S2, plain_S2))
    return {
        "ranker": name,
        "clicks_a_list": float(pairs_S2[:, 0].mean()),
        "of_the_best": float(shares.mean()),
        "least": float(shares.min()),
        "most": float(shares.max()),
        "shops_better_than_plain": int((shares > plain).sum()),
    }


def report(config: Config) -> None:
    """Train, print and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows = run(config)
    sys.stdout.write(table(rows))
    log.info("Written to %s.", save(config.name, asdict(config), rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
