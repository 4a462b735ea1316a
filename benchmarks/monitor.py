"""How often the monitor finds a drift that is there, and one that is not: simulations of both.

Each round draws a reference and served rows anew, plants a drift of known size into one feature, or
none, and judges them as ``python -m serving.monitor`` does. Likewise weeks of answers and clicks,
with a fall of click-through or a shift of scores in the last one. Where nothing is planted every
alarm is a false one; the rate is of rounds in which any test of the family raises one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats
from tqdm import tqdm

from benchmarks._command import run_command
from benchmarks._monitored_shop import (
    CHANGED_CATEGORY,
    CHANGED_NUMBER,
    ITEMS,
    Weeks,
    answers,
    emptied,
    feature_rows,
    schema,
    shifted,
)
from benchmarks._monitored_weeks import week_rows
from benchmarks._report import save, table
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Clock, IdType
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import is_label
from feature_repo.contract.schema import Schema
from feature_repo.contract.snapshot import Kind, Snapshot, kind_of, watched
from ranking.item_groups import LONG_TAIL, NEW
from serving.about import About
from serving.monitor.config import MonitorConfig
from serving.monitor.drift import drifts
from serving.monitor.facts import ReleaseFacts
from serving.monitor.outcomes import CALIBRATION, CLICKS, outcomes, prediction_drift

log = logging.getLogger("benchmarks.monitor")

HELP = """\
python -m benchmarks.monitor [KEY=VALUE ...]

  rounds=200        simulations of each drift, and of none
  reference=5000    training rows of the snapshot
  served=5000       users whose rows were served in the recent week
  small=500         users of a small window
  users=4000        whose answers are compared; about two thirds of them come in a week
  shop=null         a training set such as data/NAME/sets/ranking_v1-users-t2: its rows, which
                    are dealt anew into reference and served ones each round, beside simulated ones
  visits=null       a data set such as data/NAME with its set of visits: its real weeks, after
                    snapshots of every fourth, in place of all simulations
  part=all          or features, online, shop: of these alone
  seed=0
  name=monitor      benchmarks/results/<name>.json
"""

SHIFTS = (0.1, 0.2, 0.5)
"""Of a feature's mean or of scores, in standard deviations."""
POINTS = (5.0, 20.0)
"""Of missing values, in hundredths."""
PARTS = ("all", "features", "online", "shop")
FALLS = (0.1, 0.2, 0.3)
"""Of click-through."""


@dataclass
class Config:
    """Settings of the benchmark."""

    rounds: int = 200
    reference: int = 5000
    served: int = 5000
    small: int = 500
    users: int = 4000
    shop: str | None = None
    visits: str | None = None
    part: str = "all"
    seed: int = 0
    name: str = "monitor"

    def __post_init__(self) -> None:
        for name in ("rounds", "reference", "served", "small", "users"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} must be at least 2; got {getattr(self, name)}.")
        if self.part not in PARTS or (self.part == "shop" and self.shop is None):
            raise ConfigError(f"part must be one of {PARTS}, and shop names one; got {self.part}.")


Plant = Callable[[np.random.Generator, pa.Table], pa.Table]
Draw = Callable[[np.random.Generator, int, int], tuple[pa.Table, pa.Table]]
"""Reference and served rows."""


@dataclass(frozen=True)
class Rows:
    """Where rows come from, and in which features drifts are planted."""

    name: str
    schema: Schema
    draw: Draw
    reference: int
    served: tuple[int, ...]
    number: str
    category: str


def simulated(config: Config) -> Rows:
    """Made-up features."""

    def draw(random: np.random.Generator, before: int, now: int) -> tuple[pa.Table, pa.Table]:
        return feature_rows(random, before), feature_rows(random, now)

    sizes = (config.served, config.small)
    found = schema()
    return Rows("simulated", found, draw, config.reference, sizes, CHANGED_NUMBER, CHANGED_CATEGORY)


def of_shop(folder: Path) -> Rows:
    """A real shop's users at a cut-off, half of them served."""
    found = Schema.load(folder / "schema.json")
    rows = read_table(folder / "users.parquet")
    rows = rows.select([name for name in rows.column_names if not is_label(name)])

    def draw(random: np.random.Generator, before: int, now: int) -> tuple[pa.Table, pa.Table]:
        order = random.permutation(len(rows))
        return rows.take(pa.array(order[:before])), rows.take(pa.array(order[before:][:now]))

    features = [
        f
        for f in watched(found, rows.column_names)
        if not pa.types.is_list(rows.schema.field(f.name).type)
        and rows.column(f.name).null_count < len(rows)
    ]
    number = next(f.name for f in features if kind_of(f) is Kind.NUMBER and f.derive is None)
    category = next((f.name for f in features if kind_of(f) is Kind.CATEGORY), number)
    half = len(rows) // 2
    return Rows(folder.name, found, draw, half, (half, half // 6), number, category)


def plants(rows: Rows) -> Iterator[tuple[str, str | None, Plant]]:
    """Name of a drift, the feature that has it, and what plants it."""

    def shift(size: float) -> Plant:
        return lambda random, found: shifted(found, rows.number, size)

    def empty(size: float) -> Plant:
        return lambda random, found: emptied(random, found, rows.category, size)

    yield "none", None, lambda random, found: found
    for deviations in SHIFTS:
        yield f"mean by {deviations:g} deviations", rows.number, shift(deviations)
    for points in POINTS:
        yield f"missing +{points:g} points", rows.category, empty(points)


def feature_rates(config: Config, rows: Rows, served: int) -> list[dict[str, Any]]:
    """One row a drift: how often it is found, and how often another feature is blamed."""
    monitor, found = MonitorConfig(), []
    for place, (name, planted, plant) in enumerate(plants(rows)):
        hits, others = [], []
        for number in tqdm(range(config.rounds), desc=f"{name}, {served} rows", disable=None):
            random = np.random.default_rng([config.seed, place, number, served])
            before, now = rows.draw(random, rows.reference, served)
            snapshot = Snapshot.of(before, rows.schema, "rows")
            counted = snapshot.count(plant(random, now), rows.schema)
            alarms = {one.name for one in drifts(snapshot.features, counted, monitor) if one.alarm}
            hits.append(planted in alarms)
            others.append(bool(alarms - {planted}))
        found.append(_rates(f"{rows.name}, {served:,} users", name, planted, hits, others))
    return found


def _rates(
    what: str, name: str, planted: str | None, hits: Sequence[bool], others: Sequence[bool]
) -> dict[str, Any]:
    """Rates with the 95% interval (Wilson) of the one that the row is about."""
    shown = others if planted is None else hits
    low, high = stats.binomtest(sum(shown), len(shown)).proportion_ci(method="wilson")
    return {
        "window": what,
        "drift": name,
        "in": planted or "nothing",
        "found": None if planted is None else sum(hits) / len(hits),
        "false_alarms": sum(others) / len(others),
        "from": float(low),
        "to": float(high),
    }


def facts() -> ReleaseFacts:
    """Of simulated items, of which a tenth is new; all users are."""
    groups = {NEW: np.arange(ITEMS + 1) % 10 == 1, LONG_TAIL: np.arange(ITEMS + 1) > ITEMS // 2}
    bits = np.concatenate([[np.nan], np.log2(np.arange(1, ITEMS + 1) + 1.0)])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    int64, name = IdType.INT64, "simulated"
    about = About("1", name, name, now, Clock.WALL, now, int64, int64, (), None, {})
    ids = pa.array(range(ITEMS), pa.int64())
    return ReleaseFacts(about, schema(), None, ids, ids[:0], bits, groups)


def online_rates(config: Config, users: int) -> list[dict[str, Any]]:
    """One row a drift of answers: falls of click-through, and shifts of scores."""
    planted: list[tuple[str, str | None, Weeks]] = [("none", None, Weeks())]
    planted += [(f"click-through -{fall:.0%}", CLICKS, Weeks(fall=fall)) for fall in FALLS]
    planted += [(f"scores by {size:g} deviations", "score", Weeks(shift=size)) for size in SHIFTS]
    return [_online(config, users, place, *one) for place, one in enumerate(planted)]


def _online(
    config: Config, users: int, place: int, name: str, planted: str | None, weeks: Weeks
) -> dict[str, Any]:
    monitor, release, hits, others = MonitorConfig(), facts(), [], []
    for number in tqdm(range(config.rounds), desc=f"{name}, {users} users", disable=None):
        random = np.random.default_rng([config.seed, 100 + place, number, users])
        shown = answers(random, users, monitor.num_blocks, weeks)
        predictions, _ = prediction_drift(shown, release, monitor)
        alarms = {one.name for one in outcomes(shown, release, monitor) if one.alarm}
        alarms |= {one.name for one in predictions if one.alarm}
        hits.append(planted in alarms)
        others.append(bool(alarms - consequences(planted)))
    return _rates(f"answers, {users:,} users", name, planted, hits, others)


def consequences(planted: str | None) -> set[str | None]:
    """What rightly is up where something is planted: fewer clicks are fewer items taken."""
    if planted is None:
        return set()
    same = {CLICKS, "precision", CALIBRATION, f"{CLICKS}: new users"}
    return {planted, *(same if planted == CLICKS else {CALIBRATION})}


def run(config: Config) -> list[dict[str, Any]]:
    """All rows."""
    if config.visits is not None:
        return week_rows(Path(config.visits))
    found = []
    sources = [simulated(config)] if config.part in ("all", "features") else []
    if config.shop is not None:
        sources.append(of_shop(Path(config.shop)))
    for rows in sources:
        for served in rows.served:
            found += feature_rates(config, rows, served)
    if config.part in ("all", "online"):
        for users in (config.users, max(config.users // 10, 2)):
            found += online_rates(config, users)
    return found


def report(config: Config) -> None:
    """Simulate, print and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows = run(config)
    sys.stdout.write(f"{table(rows)}\n")
    log.info("Written to %s.", save(config.name, asdict(config), rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
