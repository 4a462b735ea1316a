"""New users and new items: who finds what they buy, where a tenth of both has no past at all.

Users and items are hidden by a hash of their ids, several times over; all sources and the
two-tower are fitted on the rest by the trainer's own code. Asked is what hidden users bought in
the window after the cut-off, and who bought the hidden items; every item competes. Settings were
chosen with split=validation.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks._cold import FIRST, TowerSource, Universe, ranked, ranked_among
from benchmarks._command import run_command
from benchmarks._hidden import hide, prepare, train_two_tower
from benchmarks._report import RESULTS, save, table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from retrieval.metrics import recall_at_k
from retrieval.sources import Source
from trainer.distributed import set_up_logging
from trainer.evaluation.plots import COLOURS, DPI, INK, SOFT, SYSTEM, save_figure, without_box
from trainer.fitting import Fitting, fit_source
from trainer.judge import Judged
from trainer.source_config import (
    By,
    ContentConfig,
    EaseConfig,
    FittedModelConfig,
    GroupConfig,
    KnnConfig,
    PopularConfig,
    SimilarUsersConfig,
    TrendingConfig,
)

log = logging.getLogger("benchmarks.cold_start")

HELP = """\
python -m benchmarks.cold_start [KEY=VALUE ...]

  split=test             test: the window after t2; validation: the one after t1, to choose by
  seeds=[0,1,2]          one hiding each
  share=0.1              of users and of items that are hidden
  two_tower=true         train it (minutes a seed)
  segment=age_band       user attribute of the popular lists by segment; null: none
  data=data/complete_journey  an ingested shop with 64-bit ids
  folder=data/cold_start      gets the shops without the hidden ones
  runs=runs/cold_start        gets the two-tower runs
  name=cold_start        benchmarks/results/<name>.json and .png
"""

LENGTHS = (50, 200)
NEW_USERS, NEW_ITEMS, AMONG_NEW = "new users", "new items", "new items among new"
BEGUN = (0, 1, 2, FIRST)
"""Items that are known of a new user."""
POPULAR = "popular"
"""The source that the others are held against."""
CUTOFFS = {"validation": "t1", "test": "t2"}


@dataclass
class Config:
    """Settings of the benchmark."""

    split: str = "test"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    share: float = 0.1
    two_tower: bool = True
    segment: str | None = "age_band"
    data: str = "data/complete_journey"
    folder: str = "data/cold_start"
    runs: str = "runs/cold_start"
    name: str = "cold_start"

    def __post_init__(self) -> None:
        if self.split not in CUTOFFS:
            raise ConfigError(f"split must be one of {sorted(CUTOFFS)}; got {self.split}.")


def models(config: Config) -> dict[str, FittedModelConfig]:
    """The sources that are fitted."""
    found: dict[str, FittedModelConfig] = {
        "content": ContentConfig(),
        "content, no topics": ContentConfig(topics=0),
        POPULAR: PopularConfig(),
        "popular, decayed": PopularConfig(days=84, half_life_days=14.0),
        "popular by category": PopularConfig(by=By.category),
        "trending": TrendingConfig(),
        "similar users": SimilarUsersConfig(),
        "user clusters": SimilarUsersConfig(exact_users=0, clusters=64),
        "ease": EaseConfig(),
        "item_knn": KnnConfig(),
        "groups": GroupConfig(),
    }
    if config.segment is not None:
        found["popular by segment"] = PopularConfig(by=By.segment, segment=config.segment)
    return found


def run(config: Config) -> list[dict[str, Any]]:
    """Every seed's recall; one row a seed, question and source."""
    found = []
    whole = Dataset.load(Path(config.data).resolve() / "dataset.json")
    for seed in config.seeds:
        shop = hide(whole, Path(config.folder), seed, config.share)
        prepare(shop, [CUTOFFS[config.split]])
        universe = Universe.at(shop, CUTOFFS[config.split])
        for source in sources(config, universe):
            log.info("Seed %d: judging %s.", seed, source.name)
            found += [{"seed": seed, **row} for row in judge(source, universe)]
        found += [{"seed": seed, **row} for row in by_chance(universe)]
    return found


def sources(config: Config, universe: Universe) -> Iterator[Source]:
    """The two-tower, and every model fitted on the visible past."""
    shop = universe.shop
    if config.two_tower:
        runs = Path(config.runs).resolve()
        yield TowerSource(train_two_tower(shop, universe.cutoff, runs), universe)
    cutoff = shop.seen.edge(universe.cutoff)
    fitting = Fitting.before(shop.seen, cutoff, universe.items, universe.encoder)
    for name, model in models(config).items():
        yield fit_source(name, model, fitting)


def judge(source: Source, universe: Universe) -> Iterator[dict[str, Any]]:
    """Recall of a source on every question."""
    longest = max(LENGTHS)
    buyers = universe.known_users()
    among = ranked_among(source, buyers.users, universe.hidden, longest)
    yield _row(NEW_ITEMS, source.name, ranked(source, buyers.users, longest), buyers)
    yield _row(AMONG_NEW, source.name, among, buyers)
    strangers = universe.new_users()
    yield _row(NEW_USERS, source.name, ranked(source, strangers.users, longest), strangers)
    for count in BEGUN:
        begun = universe.begun_users(count)
        lists = ranked(source, begun.users, longest)
        yield _row(after(count), source.name, lists, begun)


def after(count: int) -> str:
    """Name of the question about users of whom ``count`` items are known."""
    return f"after {count} items"


def by_chance(universe: Universe) -> Iterator[dict[str, Any]]:
    """Expected recall of random lists of new items."""
    sizes = {NEW_ITEMS: universe.encoder.items.num_rows - 1, AMONG_NEW: len(universe.hidden)}
    for question, size in sizes.items():
        recalls = {f"recall@{k}": k / size for k in LENGTHS}
        yield {"question": question, "source": "chance", "users": 0, **recalls}


def _row(
    question: str, source: str, lists: npt.NDArray[np.int64], judged: Judged
) -> dict[str, Any]:
    recalls = {
        f"recall@{k}": float(np.nanmean(recall_at_k(lists, judged.relevant, k))) for k in LENGTHS
    }
    return {"question": question, "source": source, "users": len(judged.users), **recalls}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, the best source of a question first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["question"], row["source"]), []).append(row)
    found = []
    for (question, source), mine in groups.items():
        made: dict[str, Any] = {"question": question, "source": source}
        for k in LENGTHS:
            values = np.array([row[f"recall@{k}"] for row in mine])
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            made |= {f"recall@{k}": float(values.mean()), f"± {k}": deviation}
        found.append(made)
    order = {question: place for place, question in enumerate(dict.fromkeys(g[0] for g in groups))}
    return sorted(found, key=lambda row: (order[row["question"]], -row[f"recall@{LENGTHS[-1]}"]))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of recall at the longest length, and what the first items of new users bring."""
    figure = Figure(figsize=(14, 4.6), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    for axis, question in zip(axes, (NEW_USERS, NEW_ITEMS, AMONG_NEW), strict=False):
        _bars(axis, [row for row in rows if row["question"] == question], question)
    _lines(axes[3], rows)
    figure.tight_layout(w_pad=1.5)
    save_figure(figure, path)


def _bars(axis: Axes, rows: Sequence[dict[str, Any]], title: str) -> None:
    """The sources that find anything, popular in grey, and how many others find nothing."""
    length = f"recall@{LENGTHS[-1]}"
    shown = [row for row in rows if row[length] > 0 or row["source"] == POPULAR]
    shown = sorted(shown, key=lambda row: float(row[length]))
    none = f"{len(rows) - len(shown)} others"
    values = [0.0, *(row[length] for row in shown)]
    errors = [0.0, *(row[f"± {LENGTHS[-1]}"] or 0.0 for row in shown)]
    names = [none, *(row["source"] for row in shown)]
    colours = [COLOURS[POPULAR] if name == POPULAR else SYSTEM for name in names]
    axis.barh(names, values, xerr=errors, color=colours, ecolor=INK)
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        axis.annotate(
            f"{value:.3f}",
            (value + error, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=SOFT,
        )
    axis.set_xlim(0, 1.18 * max(v + e for v, e in zip(values, errors, strict=True)))
    axis.set_title(f"{title}: {length}", loc="left", fontsize=10, color=INK)
    without_box(axis)


def _lines(axis: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """How the sources grow with what is known; of the popular lists, the plain one."""
    recalls = {(row["source"], row["question"]): row[f"recall@{LENGTHS[-1]}"] for row in rows}
    names = {name for name, question in recalls if question == after(FIRST)}
    names -= {name for name in names if name.startswith("popular") and name != POPULAR}
    for name in sorted(names, key=lambda name: -recalls[name, after(FIRST)])[:6]:
        colour = COLOURS[POPULAR] if name == POPULAR else None
        values = [recalls[name, after(count)] for count in BEGUN]
        axis.plot(BEGUN, values, "o-", label=name, color=colour)
    axis.set_xticks(BEGUN)
    axis.set_xlabel("known items of a new user", fontsize=9, color=SOFT)
    axis.set_title(f"begun users: recall@{LENGTHS[-1]}", loc="left", fontsize=10, color=INK)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, frameon=False)
    without_box(axis)


def report(config: Config) -> None:
    """Measure, print, and write the result and its plot."""
    set_up_logging()
    log.setLevel(logging.INFO)
    rows = run(config)
    means = summary(rows)
    for question in dict.fromkeys(row["question"] for row in means):
        sys.stdout.write(table([row for row in means if row["question"] == question]) + "\n")
    draw(means, RESULTS / f"{config.name}.png")
    settings = {**asdict(config), "sizes": _sizes(rows), "seed_rows": rows}
    log.info("Written to %s.", save(config.name, settings, means))


def _sizes(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Question -> users who were asked, over all seeds."""
    asked: dict[tuple[str, int], int] = {}
    for row in rows:
        asked[row["question"], row["seed"]] = max(
            row["users"], asked.get((row["question"], row["seed"]), 0)
        )
    questions = dict.fromkeys(question for question, _ in asked)
    return {q: sum(size for (name, _), size in asked.items() if name == q) for q in questions}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
