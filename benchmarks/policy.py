"""The price of each list policy in NDCG against what it gains, on the validation window.

A release scores the candidates of the judged users once; every policy then makes its lists of the
same scores. Gains are of the same lists: how unlike their items are, how seldom bought, how new to
the user, and what share of the places a group of items has. The test window is never looked at.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks._command import run_command
from benchmarks._report import RESULTS, save, table
from feature_repo.contract.artifacts import read_manifest, read_table
from feature_repo.contract.candidates import Candidates
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset, parse_time
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError, ConfigError
from ranking import metrics
from ranking.policy import Policy, rank_lists, seen_rows
from ranking.policy_config import (
    ExposureConfig,
    ItemGroup,
    PolicyConfig,
    PromotionConfig,
    Relevance,
    Similarity,
)
from retrieval.sources.ann import AnnSource
from serving.about import KIND
from serving.catalogue import Catalogue, Filters
from serving.release import DEFAULT_RANKER, DISCOVER_RANKER, Release
from trainer.distributed import set_up_logging
from trainer.evaluation.config import Split
from trainer.evaluation.plots import DPI, INK, SOFT, SYSTEM, save_figure, without_box
from trainer.evaluation.window import Judged, Task, Window, load_window
from trainer.sets import TrainingSet

log = logging.getLogger("benchmarks.policy")

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

HELP = """\
python -m benchmarks.policy [KEY=VALUE ...]

  release=null           a release with the validation window's cut-off (t1); null: the latest one
  releases=releases      where it is looked for
  data=data/complete_journey  the ingested shop
  task=all               all: everything that was bought; new: what the user had not bought before
  promoted=coupons_active  item column whose nonzero values are promoted
  tail=0.2               the long tail: the least bought items, which have this share of all buyers
  new_days=84            items first sold within so many days are new
  k=10                   places of a list
  max_users=20000        judge this many users, drawn by seed=0, where there are more
  samples=1000           bootstrap samples of the price's interval
  name=policy            benchmarks/results/<name>.json and .png
"""

LINES = (SYSTEM, "#d9660a", "#178a5b", "#7c4dbd")
CHUNK = 128
"""Users whose lists are made at once."""
DIALS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5)
BOOSTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
CAPS = (0, 5, 3, 2, 1)
"""Most items a group; 0: no limit."""
SLOTS = (0, 1, 2, 3)
CUTOFF = "t1"

MEASURES = {
    "diversity": "share of attributes in which two items differ",
    "novelty": "self-information of an item, bits",
    "serendipity": "share of attributes unlike the history",
    "promotion": "share of the places with promoted items",
    "long tail": "share of the places with the long tail",
    "new items": "share of the places with new items",
}
"""Aim -> what its gain is."""


@dataclass
class Config:
    """Settings of the benchmark."""

    release: str | None = None
    releases: str = "releases"
    data: str = "data/complete_journey"
    task: str = "all"
    promoted: str = "coupons_active"
    tail: float = 0.2
    new_days: float = 84.0
    k: int = 10
    max_users: int = 20_000
    samples: int = 1000
    seed: int = 0
    name: str = "policy"

    def __post_init__(self) -> None:
        if self.task not in list(Task):
            raise ConfigError(f"task must be all or new; got {self.task}.")
        if self.k < 2 or self.max_users < 1 or not 0 < self.tail < 1:
            raise ConfigError("k must be at least 2, max_users at least 1, tail between 0 and 1.")


@dataclass(frozen=True)
class Part:
    """Some of the judged users, with what their lists are made of."""

    candidates: Candidates
    scores: Floats
    history: list[Ints]


@dataclass(frozen=True)
class Scored:
    """The judged users' scored candidates and what they are judged by."""

    config: Config
    release: Release
    window: Window
    judged: Judged
    parts: list[Part]
    """All judged users, in their order."""

    def policy(self, config: PolicyConfig) -> Policy:
        """A policy over the release's items."""
        return self.release.policy(config)

    def lists(self, policy: Policy) -> Ints:
        """[B, k] rows of the release's items."""
        catalogue, k = self.catalogue, self.config.k
        found = [
            rank_lists(
                part.candidates,
                part.scores,
                k,
                filters=[lambda some: catalogue.passes(some.item_row, Filters())],
                policy=policy,
                history=part.history,
            ).item_row
            for part in self.parts
        ]
        return np.concatenate(found)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Of the release's items."""
        return Catalogue(self.release.items, self.release.retriever.items)

    @cached_property
    def window_row(self) -> Ints:
        """[R] a release item's row in the window; 0 where nobody bought it before."""
        items = self.release.retriever.items
        return np.concatenate([np.zeros(1, np.int64), self.window.items.rows(items.ids)])

    @cached_property
    def buyers(self) -> Ints:
        """[rows of the window] users who bought the item before."""
        return np.asarray(self.window.seen.sum(axis=0)).ravel().astype(np.int64)

    def members(self, group: ItemGroup) -> npt.NDArray[np.bool_]:
        """[R] the release's items that are of a group."""
        promotion = PromotionConfig(**asdict(group), boost=1.0)
        return self.policy(PolicyConfig(promotions=[promotion])).items.boost_R > 0

    def share_of(self, member_R: npt.NDArray[np.bool_], lists_BK: Ints) -> float:
        """The share of all places that hold an item of a group."""
        return float(member_R[lists_BK].sum() / max((lists_BK > 0).sum(), 1))


def validation(config: Config) -> Scored:
    """What is judged: a release with the validation window's cut-off, on that window.

    Raises:
        ArtifactError: there is no such release.
    """
    dataset = Dataset.load(Path(config.data).resolve() / "dataset.json")
    release = Release.load(find_release(config, dataset))
    folder = TrainingSet.open(dataset, "ranking_v1", "users", CUTOFF).folder
    window = load_window(dataset, Split.validation)
    return score(config, release, window, read_table(folder / "users.parquet"))


def score(config: Config, release: Release, window: Window, rows: pa.Table) -> Scored:
    """Find and score the candidates of every judged user that ``rows`` has features of."""
    task = Task(config.task)
    judged = window.judged(task, config.max_users, config.seed)
    wanted = pa.array(window.users.ids_of(judged.users), window.users.ids.type)
    place = pc.index_in(wanted, column_of(rows, "user_id").cast(wanted.type))
    known = np.flatnonzero(np.asarray(place.is_valid()))
    judged = _of(judged, known)
    log.info("%d judged users; %d have no features.", len(wanted), len(wanted) - len(known))
    rows = rows.take(place.drop_null())
    parts = [
        _score(release, rows.slice(start, CHUNK), task)
        for start in tqdm(range(0, len(rows), CHUNK), desc="scoring", disable=None)
    ]
    return Scored(config, release, window, judged, parts)


def find_release(config: Config, dataset: Dataset) -> Path:
    """The release that is asked for, or the one with the validation cut-off written last."""
    cutoff = dataset.edge(CUTOFF)
    if config.release is not None:
        folders = [Path(config.release)]
    else:
        made = Path(config.releases).glob(f"{dataset.name}-*/manifest.json")
        newest = sorted(made, key=lambda path: path.stat().st_mtime, reverse=True)
        folders = [path.parent for path in newest]
    found = next((folder for folder in folders if _cutoff(folder) == cutoff), None)
    if found is None:
        raise ArtifactError(
            f"No release of {dataset.name} with the validation cut-off {cutoff.isoformat()} is at "
            f"{config.release or config.releases}; `make quickstart` makes one."
        )
    return found


def _cutoff(folder: Path) -> datetime:
    about = read_manifest(folder, KIND, verify=False)  # loading verifies
    return parse_time(str(about["cutoff"]))


def _of(judged: Judged, places: Ints) -> Judged:
    relevant = judged.relevant
    rows = [
        relevant.item_row[relevant.offsets[p] : relevant.offsets[p + 1]] for p in places.tolist()
    ]
    return Judged(judged.users[places], metrics.Relevant.of(rows))


def _score(release: Release, rows: pa.Table, task: Task) -> Part:
    now_s, vocabulary = query_times_s(rows), release.retriever.items
    history = seen_rows(rows, vocabulary)
    new = task is Task.NEW
    candidates = release.retriever.candidates(rows, now_s, history if new else None)
    ranker = DISCOVER_RANKER if new and DISCOVER_RANKER in release.scorers else DEFAULT_RANKER
    scores = release.scorers[ranker].score(rows, candidates, vocabulary, now_s)
    return Part(candidates, scores, history)


@dataclass(frozen=True)
class Sweep:
    """One policy at rising strengths, and what it is for."""

    aim: str
    """Policies of one aim are drawn together."""
    name: str
    strengths: Sequence[float]
    measure: str
    """Of the aim, the same for all of its policies."""
    config: Callable[[float], PolicyConfig]
    gain: Callable[[Ints], float]
    """[B, k] lists -> the measure."""


def sweeps(scored: Scored) -> list[Sweep]:
    """Every policy that the shop has the columns for."""
    return [*_dials(scored), *_group_sweeps(scored)]


def _dials(scored: Scored) -> Iterator[Sweep]:
    gains = {"diversity": diversity, "novelty": novelty, "serendipity": surprise}
    for aim, gain in gains.items():
        for relevance in Relevance:
            policy = _dial(aim, relevance=relevance)
            name = f"{aim}, relevance by {relevance.value}"
            yield Sweep(aim, name, DIALS, MEASURES[aim], policy, partial(gain, scored))
    aim, unlike = "diversity", partial(diversity, scored)
    if any(isinstance(source, AnnSource) for source in scored.release.retriever.sources):
        vectors = _dial(aim, similarity=Similarity.vectors)
        yield Sweep(aim, "diversity of vectors", DIALS, MEASURES[aim], vectors, unlike)
    yield Sweep(aim, "at most a category", CAPS, MEASURES[aim], _capped, unlike)


def _dial(name: str, **settings: Any) -> Callable[[float], PolicyConfig]:
    def policy(strength: float) -> PolicyConfig:
        return PolicyConfig(**{**settings, name: strength})

    return policy


def _capped(most: float) -> PolicyConfig:
    return PolicyConfig(max_per={"category": int(most)} if most else {})


def _group_sweeps(scored: Scored) -> Iterator[Sweep]:
    config, columns = scored.config, scored.release.items.column_names
    if config.promoted in columns:
        group = ItemGroup(column=config.promoted)
        yield _promotion(scored, "promotion by boost", group, BOOSTS, "boost")
        yield _promotion(scored, "promotion by slots", group, SLOTS, "slots")
    if "buyers_total" in columns:
        most = tail_buyers(scored.release.items, config.tail)
        yield _exposure(scored, "long tail", ItemGroup(column="buyers_total", at_most=most))
    if "first_sold_s" in columns:
        new = ItemGroup(column="first_sold_s", within_days=config.new_days)
        yield _exposure(scored, "new items", new)


def _promotion(
    scored: Scored, name: str, group: ItemGroup, strengths: Sequence[float], setting: str
) -> Sweep:
    def policy(strength: float) -> PolicyConfig:
        if not strength:
            return PolicyConfig()
        rule: dict[str, Any] = {**asdict(group), setting: strength}
        return PolicyConfig(promotions=[PromotionConfig(**rule)])

    member = scored.members(group)
    gain = partial(scored.share_of, member)
    return Sweep("promotion", name, strengths, MEASURES["promotion"], policy, gain)


def _exposure(scored: Scored, name: str, group: ItemGroup) -> Sweep:
    def policy(share: float) -> PolicyConfig:
        rules = [ExposureConfig(**asdict(group), share=share)] if share else []
        return PolicyConfig(exposure=rules)

    member = scored.members(group)
    return Sweep(name, name, SHARES, MEASURES[name], policy, partial(scored.share_of, member))


def tail_buyers(items: pa.Table, share: float) -> float:
    """Most buyers of an item of the long tail: the least bought ones with ``share`` of all."""
    buyers = np.sort(np.asarray(column_of(items, "buyers_total").fill_null(0)))
    below = np.flatnonzero(np.cumsum(buyers) <= share * buyers.sum())
    return float(buyers[below[-1]]) if len(below) else 0.0


def diversity(scored: Scored, lists_BK: Ints) -> float:
    """Mean share of attributes in which two items of a list differ."""
    rows = scored.window_row[lists_BK]
    return float(np.nanmean(metrics.attribute_diversity(rows, scored.window.attributes)))


def novelty(scored: Scored, lists_BK: Ints) -> float:
    """Mean self-information of the items shown, bits."""
    rows = scored.window_row[lists_BK]
    return float(np.nanmean(metrics.novelty(rows, scored.buyers, len(scored.window.users))))


def surprise(scored: Scored, lists_BK: Ints) -> float:
    """Mean share of attributes in which an item is like nothing that the user bought."""
    items = scored.policy(PolicyConfig()).items
    history = [rows for part in scored.parts for rows in part.history]
    found = items.surprise(lists_BK, history)
    return float(found[lists_BK > 0].mean())


def run(scored: Scored) -> list[dict[str, Any]]:
    """One row a policy and strength; the first strength of each policy is none."""
    plain = ndcg(scored, scored.lists(scored.policy(PolicyConfig())))
    rows = []
    for sweep in sweeps(scored):
        log.info("Judging %s.", sweep.name)
        rows += [_row(scored, sweep, strength, plain) for strength in sweep.strengths]
    return rows


def _row(scored: Scored, sweep: Sweep, strength: float, plain: Doubles) -> dict[str, Any]:
    policy = scored.policy(sweep.config(strength))
    started = time.perf_counter()
    lists = scored.lists(policy)
    took = time.perf_counter() - started
    accuracy = ndcg(scored, lists)
    config = scored.config
    price = metrics.bootstrap(plain - accuracy, seed=config.seed, num_samples=config.samples)
    return {
        "aim": sweep.aim,
        "policy": sweep.name,
        "strength": strength,
        "ndcg": float(accuracy.mean()),
        "price": price.mean,
        "price_low": price.low,
        "price_high": price.high,
        "measure": sweep.measure,
        "gain": sweep.gain(lists),
        "diversity": diversity(scored, lists),
        "novelty": novelty(scored, lists),
        "coverage": metrics.catalogue_coverage(scored.window_row[lists], len(scored.window.items)),
        "us_a_list": 1e6 * took / len(lists),
    }


def ndcg(scored: Scored, lists_BK: Ints) -> Doubles:
    """[B] of the judged users."""
    rows = scored.window_row[lists_BK]
    return metrics.ndcg_at_k(rows, scored.judged.relevant, scored.config.k)


def draw(rows: Sequence[dict[str, Any]], k: int, path: Path) -> None:
    """A panel an aim: NDCG against the gain, a line a policy, a point a strength."""
    aims = list(dict.fromkeys(row["aim"] for row in rows))
    columns = min(3, len(aims))
    lines = -(-len(aims) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * lines), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(aims) :]:
        panel.set_axis_off()
    top = max(row["ndcg"] for row in rows)
    for panel, aim in zip(panels, aims, strict=False):
        _panel(panel, [row for row in rows if row["aim"] == aim], f"{aim}: NDCG@{k}")
        panel.set_ylim(0, 1.1 * top)
    figure.tight_layout(w_pad=1.5, h_pad=2)
    save_figure(figure, path)


def _panel(panel: Axes, rows: Sequence[dict[str, Any]], title: str) -> None:
    names = list(dict.fromkeys(row["policy"] for row in rows))
    for name, colour in zip(names, LINES, strict=False):
        mine = [row for row in rows if row["policy"] == name]
        gains, values = [row["gain"] for row in mine], [row["ndcg"] for row in mine]
        panel.plot(gains, values, "o-", ms=3, lw=1.2, color=colour, label=name)
        for row in mine[1:]:
            _name_strength(panel, row, colour)
    panel.set_title(title, loc="left", fontsize=10, color=INK)
    panel.set_xlabel(rows[0]["measure"], fontsize=8, color=SOFT)
    panel.legend(fontsize=7, frameon=False, loc="lower left")
    without_box(panel, size=7)


def _name_strength(panel: Axes, row: dict[str, Any], colour: str) -> None:
    place = (row["gain"], row["ndcg"])
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 5.5, "color": colour}
    panel.annotate(f"{row['strength']:g}", place, (2, 4), **style)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """What the table has of a row: all but what its heading says."""
    return {name: value for name, value in row.items() if name not in ("aim", "policy", "measure")}


def report(config: Config) -> None:
    """Measure, print, and write the result and its plot."""
    set_up_logging()
    log.setLevel(logging.INFO)
    scored = validation(config)
    rows = run(scored)
    for aim, measure in MEASURES.items():
        shown = [row for row in rows if row["aim"] == aim]
        for name in dict.fromkeys(row["policy"] for row in shown):
            mine = [_shown(row) for row in shown if row["policy"] == name]
            sys.stdout.write(f"{name}; gain: {measure}\n{table(mine)}\n")
    draw(rows, config.k, RESULTS / f"{config.name}.png")
    about = scored.release.about
    settings = {
        **asdict(config),
        "release": about.version,
        "split": Split.validation.value,
        "users": len(scored.judged.users),
        "tail_buyers": tail_buyers(scored.release.items, config.tail),
    }
    log.info("Written to %s.", save(config.name, settings, rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
