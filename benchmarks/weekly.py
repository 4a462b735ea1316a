"""A shop week by week: the system that goes on learning against the one that stays as it was.

Both begin as one release. Each week both make lists for everybody from the same live rows, as of
the week's start, and are judged by what is bought in it; then the week's events join the table of
events, and one of them goes on by the product's own command, ``python -m trainer ... init=release
data.since=last``. The other keeps its models, index and statistics. Settings were chosen on the
validation weeks alone (weeks=4).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks._command import run_command
from benchmarks._replay import Replay, weeks_from
from benchmarks._report import RESULTS, save, table
from benchmarks._system import call, fit_system
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ArtifactError, ConfigError
from ranking.metrics import bootstrap, ndcg_at_k, precision_at_k
from trainer.continuing import TASKS, K, placed, relevant_items
from trainer.distributed import set_up_logging
from trainer.evaluation.plots import COLOURS, DPI, INK, SOFT, SYSTEM, save_figure, without_box
from trainer.export import CURRENT

log = logging.getLogger("benchmarks.weekly")

HELP = """\
python -m benchmarks.weekly [KEY=VALUE ...]

  weeks=8               from t1 on; the first four are validation, the others test
  settings=[]           of the command that goes on, such as init.rankers=train
  data=data/complete_journey  an ingested shop with 64-bit ids
  folder=data/weekly    gets the shop as it is known
  runs=runs/weekly      gets the runs, and
  releases=releases/weekly  the releases (some minutes a week on 2 cores)
  name=weekly           benchmarks/results/<name>.json and .png
"""

DAY = timedelta(days=1)
START, TEST = 1, 2
"""Edges at which both systems begin, and from which on weeks are test."""
FROZEN, UPDATED = "frozen", "updated"
METRICS = {f"ndcg@{K}": ndcg_at_k, f"p@{K}": precision_at_k}
EVERY = {False: "validation, after the first", True: "test"}
"""Rows of several weeks, by whether they are test."""

Doubles = npt.NDArray[np.float64]


@dataclass
class Config:
    """Settings of the benchmark."""

    weeks: int = 8
    settings: list[str] = field(default_factory=list)
    data: str = "data/complete_journey"
    folder: str = "data/weekly"
    runs: str = "runs/weekly"
    releases: str = "releases/weekly"
    name: str = "weekly"

    def __post_init__(self) -> None:
        if self.weeks < 1:
            raise ConfigError(f"weeks must be above zero; got {self.weeks}.")


@dataclass(frozen=True)
class Week:
    """What is judged."""

    system: str
    task: str
    start: datetime
    test: bool
    """Whether it is one of the test's weeks."""


@dataclass(frozen=True)
class Judged:
    """One system's lists of one week and task, user by user."""

    week: Week
    users: tuple[Any, ...]
    """B users who bought something."""
    values: dict[str, Doubles]
    """Metric -> [B]"""


class Shop:
    """The shop that is replayed, and the commands that it runs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        whole = Dataset.load(Path(config.data).resolve() / "dataset.json")
        self.replay = Replay(whole, (Path(config.folder) / whole.name).resolve())
        self.start, self.test = whole.edges[START], whole.edges[TEST]
        self.runs, self.releases = Path(config.runs).resolve(), Path(config.releases).resolve()

    def first(self) -> Path:
        """The release that both begin with, published."""
        self.replay.reach(self.start)
        release = fit_system(self.replay.settings, START, self.runs, self.releases)
        call("-m", "trainer.export", "--publish", str(release))
        return release

    def reach(self, end: datetime) -> None:
        """Have a week go by: its events, and everybody's live rows."""
        self.replay.reach(end)
        call("-m", "feature_repo.jobs", "state", *self.replay.settings)

    def rows(self, start: datetime, end: datetime) -> Path:
        """Everybody's rows strictly before a week, with what they bought in it."""
        cutoff = start.isoformat()
        call(
            *("-m", "feature_repo.jobs", "training-set", *self.replay.settings),
            *("service=ranking_v1", "kind=users", f"cutoff={cutoff}", f"until={end.isoformat()}"),
        )
        # An edge has a set of its own, without what was bought later.
        folder = self.replay.seen.sets / f"ranking_v1-users-{start:%Y%m%dT%H%M%SZ}"
        return folder / "users.parquet"

    def lists(self, release: Path, rows: Path, name: str, task: str) -> pa.Table:
        """A release's lists for everybody."""
        out = self.runs / "lists" / f"{name}-{task}.parquet"
        command = ("-m", "serving.batch", "--release", str(release), "--k", str(K))
        call(*command, "--user-rows", str(rows), "--out", str(out), *TASKS[task])
        return read_table(out)

    def go_on(self) -> str | None:
        """Train and publish what follows the published release; None, or why it stays."""
        command = ("experiment=complete_journey/two_tower", "init=release", "data.since=last")
        folders = (
            f"paths.runs={self.runs / self.replay.whole.name}",
            f"init.releases={self.releases}",
        )
        settings = (*self.replay.settings, *folders, *self.config.settings)
        try:
            call("-m", "trainer", *command, *settings)
        except ArtifactError as error:
            if "stays unpublished" not in str(error):
                raise
            return str(error).splitlines()[-1]
        return None

    @property
    def published(self) -> Path:
        """The release that is served now."""
        return (self.releases / CURRENT).resolve()


def run(config: Config) -> Iterator[tuple[list[Judged], list[dict[str, Any]]]]:
    """Replay the weeks; after each, all that was judged, and what became of each update."""
    shop = Shop(config)
    frozen = shop.first()
    found: list[Judged] = []
    updates: list[dict[str, Any]] = []
    for start, end in weeks_from(shop.start, config.weeks):
        if start > shop.start:
            refused = shop.go_on()
            updates.append(
                {"week": f"{start:%Y-%m-%d}", "served": shop.published.name, "refused": refused}
            )
        shop.reach(end)
        found += judged_week(shop, start, end, frozen)
        yield found, updates


def judged_week(shop: Shop, start: datetime, end: datetime, frozen: Path) -> Iterator[Judged]:
    """Both systems' lists of a week, whose events are known by now, as of its start."""
    rows = shop.rows(start, end)
    made: dict[tuple[Path, str], pa.Table] = {}
    for name, release in {FROZEN: frozen, UPDATED: shop.published}.items():
        log.info("Week from %s: %s is %s.", f"{start:%Y-%m-%d}", name, release.name)
        for task in TASKS:
            if (release, task) not in made:
                out = f"{name}-{start:%Y-%m-%d}"
                made[release, task] = shop.lists(release, rows, out, task)
            week = Week(name, task, start, start > shop.test - DAY)
            yield judge(made[release, task], read_table(rows), week)


def judge(lists: pa.Table, users: pa.Table, week: Week) -> Judged:
    """What each user who bought something gets; one without a list gets nothing."""
    relevant = relevant_items(users, only_new=week.task == "new")
    kept = np.flatnonzero([len(items) > 0 for items in relevant])
    ids = users.column("user_id").take(pa.array(kept))
    lists_BK, wanted = placed(lists, ids, [relevant[place] for place in kept])
    values = {metric: of(lists_BK, wanted, K) for metric, of in METRICS.items()}
    return Judged(week, tuple(ids.to_pylist()), values)


def compared(found: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """One row a task and week, and one of the weeks of each window.

    The first week is left out of the latter: there both serve the same.
    """
    for task in TASKS:
        mine = [one for one in found if one.week.task == task]
        weeks = sorted({(one.week.start, one.week.test) for one in mine})
        for start, _ in weeks:
            frozen, updated = (_of(mine, name, start) for name in (FROZEN, UPDATED))
            yield _row(task, f"{start:%Y-%m-%d}", frozen.values, updated.values)
        for test, name in EVERY.items():
            starts = [start for start, of_test in weeks[1:] if of_test == test]
            if starts:
                parts = ([_of(mine, n, start) for start in starts] for n in (FROZEN, UPDATED))
                yield _row(task, name, *map(_by_user, parts))


def _of(found: Sequence[Judged], system: str, start: datetime) -> Judged:
    return next(one for one in found if (one.week.system, one.week.start) == (system, start))


def _by_user(weeks: Sequence[Judged]) -> dict[str, Doubles]:
    """Metric -> [U] means of each user's weeks, users rising: the unit that is drawn again."""
    users = np.concatenate([np.array(one.users) for one in weeks])
    _, place = np.unique(users, return_inverse=True)
    counts = np.bincount(place)
    return {
        metric: np.bincount(place, np.concatenate([one.values[metric] for one in weeks])) / counts
        for metric in METRICS
    }


def _row(
    task: str, week: str, frozen: dict[str, Doubles], updated: dict[str, Doubles]
) -> dict[str, Any]:
    row: dict[str, Any] = {"items": task, "week": week, "users": len(frozen[f"ndcg@{K}"])}
    for metric in METRICS:
        difference = bootstrap(updated[metric] - frozen[metric], seed=0)
        row |= {
            f"{FROZEN} {metric}": float(frozen[metric].mean()),
            f"{UPDATED} {metric}": float(updated[metric].mean()),
            f"difference {metric}": difference.mean,
            f"difference {metric} low": difference.low,
            f"difference {metric} high": difference.high,
        }
    return row


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as they are printed."""
    found = []
    for row in rows:
        cells = {name: row[name] for name in ("items", "week", "users")}
        for metric in METRICS:
            low, high = row[f"difference {metric} low"], row[f"difference {metric} high"]
            cells |= {
                f"{FROZEN} {metric}": f"{row[f'{FROZEN} {metric}']:.4f}",
                f"{UPDATED} {metric}": f"{row[f'{UPDATED} {metric}']:.4f}",
                f"difference {metric}": (
                    f"{row[f'difference {metric}']:+.4f} [{low:+.4f}, {high:+.4f}]"
                ),
            }
        found.append(cells)
    return found


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """NDCG of both systems, week by week; a panel a task."""
    figure = Figure(figsize=(9.6, 3.8), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    metric = f"ndcg@{K}"
    for axis, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
        mine = [row for row in rows if row["items"] == task and row["week"] not in EVERY.values()]
        weeks = [row["week"][5:] for row in mine]
        frozen = [row[f"{FROZEN} {metric}"] for row in mine]
        updated = [row[f"{UPDATED} {metric}"] for row in mine]
        low, high = (
            [row[f"{FROZEN} {metric}"] + row[f"difference {metric} {side}"] for row in mine]
            for side in ("low", "high")
        )
        axis.fill_between(weeks, low, high, color=SYSTEM, alpha=0.15, linewidth=0)
        axis.plot(weeks, updated, "o-", color=SYSTEM, label="updated weekly")
        axis.plot(weeks, frozen, "o-", color=COLOURS["popular"], label=FROZEN)
        axis.set_title(f"{metric}, {task} items", loc="left", fontsize=10, color=INK)
        axis.set_xlabel("week from; band: the difference's 95% interval", fontsize=8, color=SOFT)
        axis.legend(fontsize=8, frameon=False)
        without_box(axis)
    figure.tight_layout(w_pad=1.5)
    save_figure(figure, path)


def report(config: Config) -> None:
    """Replay, and after each week print what is known and write the result and its plot."""
    set_up_logging()
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    for found, updates in run(config):
        rows = list(compared(found))
        sys.stdout.write(table(shown(rows)) + "\n")
        sys.stdout.flush()
        draw(rows, RESULTS / f"{config.name}.png")
        settings = {**asdict(config), "updates": updates}
        log.info("Written to %s.", save(config.name, settings, rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
