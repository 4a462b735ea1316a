"""New users in their first session: who finds something that they buy among 50 items.

A fifth of Complete Journey's households is hidden from everything that is fitted. Each of them
comes for the first time after the cut-off, and the release is asked for 50 items: of nobody, with
categories that the shopper names, with attributes, and after the first items of the session, which
are folded into the state and left out of lists and answers. Popular is held against it on the same
answers. Settings were chosen with split=validation.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks._command import run_command
from benchmarks._hidden import hide
from benchmarks._newcomers import Newcomer, Rows, newcomers
from benchmarks._report import RESULTS, save, table
from benchmarks._starters import list_rows
from benchmarks._system import fit_system
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from ranking.metrics import Relevant, bootstrap, hit_rate_at_k, ndcg_at_k, recall_at_k
from retrieval.sources import PopularSource
from serving.query import Query
from serving.recommender import Recommender
from serving.release import Release
from trainer.distributed import set_up_logging
from trainer.evaluation.plots import COLOURS, DPI, SOFT, SYSTEM, save_figure, without_box

log = logging.getLogger("benchmarks.first_session")

HELP = """\
python -m benchmarks.first_session [KEY=VALUE ...]

  split=test             test: the window after t2; validation: the one after t1, to choose by
  share=0.2              of households that are hidden
  seed=0                 which ones, and the order of items within a visit
  names=3                categories that a shopper names
  lists=8                windows before the test for which lists of nobody are compared alone
  data=data/complete_journey  an ingested shop with 64-bit ids
  folder=data/first_session   gets the shop without the hidden ones
  runs=runs/first_session     gets the runs, and
  releases=releases/first_session  the releases (a quarter of an hour on 2 cores)
  name=first_session     benchmarks/results/<name>.json and .png
"""

K = 50
GOAL = 0.85
"""Share of users who should find something."""
NAMED = "named categories"
BEGUN = (0, 1, 2, 5, 10)
"""Items of the session that are known."""
EDGES = {"validation": 1, "test": 2}
CHUNK = 128
"""Requests that are answered together."""
SESSION, WINDOW, REST = "first session", "four weeks", "first session, from item 11 on"
"""What the right answers are: the rest of the session; with later visits of the window; those
items of longer sessions that are unknown at every step."""

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Config:
    """Settings of the benchmark."""

    split: str = "test"
    share: float = 0.2
    seed: int = 0
    names: int = 3
    lists: int = 8
    data: str = "data/complete_journey"
    folder: str = "data/first_session"
    runs: str = "runs/first_session"
    releases: str = "releases/first_session"
    name: str = "first_session"

    def __post_init__(self) -> None:
        if self.split not in EDGES:
            raise ConfigError(f"split must be one of {sorted(EDGES)}; got {self.split}.")
        if self.names < 1:
            raise ConfigError(f"names must be above zero; got {self.names}.")


@dataclass(frozen=True)
class Scene:
    """What is known when a newcomer asks."""

    name: str
    begun: int = 0
    """Items of the session."""
    profile: bool = False
    named: str | None = None
    """Field of ``Newcomer`` that holds the preferred categories; None: none are named."""

    def categories(self, one: Newcomer) -> tuple[str, ...]:
        """Preferred categories of the request."""
        return () if self.named is None else tuple(getattr(one, self.named))


def told(count: int, also: str = "") -> str:
    """Name of a scene."""
    items = [] if not count else ["1 item" if count == 1 else f"{count} items"]
    return ", ".join([*items, *([also] if also else [])]) or "nothing"


SCENES = (
    Scene(told(0)),
    Scene(NAMED, named="named"),
    Scene("categories of this session (not knowable)", named="bought_from"),
    Scene("attributes", profile=True),
    *(Scene(told(count), count) for count in BEGUN[1:]),
    *(Scene(told(count, NAMED), count, named="named") for count in BEGUN[1:]),
)


@dataclass(frozen=True)
class Asked:
    """A release and those who come to it for the first time."""

    recommender: Recommender
    rows: Rows
    people: Sequence[Newcomer]

    def lists(self, scene: Scene, people: Sequence[Newcomer]) -> Ints:
        """[B, K] the release's lists."""
        now_s = int(self.recommender.release.about.now().timestamp())
        self.rows.rows = {
            one.user_id: {
                **(one.profile if scene.profile else {}),
                **one.row(scene.begun, now_s, self.rows.dataset),
            }
            for one in people
        }
        queries = [
            Query(
                one.user_id,
                K,
                exclude_seen=True,
                exclude=one.session[: scene.begun],
                preferred_categories=scene.categories(one),
            )
            for one in people
        ]
        found = np.zeros((len(people), K), dtype=np.int64)
        for start in range(0, len(queries), CHUNK):
            answers = self.recommender.answer(queries[start : start + CHUNK])
            for place, answer in enumerate(answers, start):
                ids = [item.item_id for item in answer.items]
                found[place, : len(ids)] = self.item_rows(ids)
        return found

    def popular(self, scene: Scene, people: Sequence[Newcomer]) -> Ints:
        """[B, K] the items with the most buyers, but for those of the session that are known."""
        source = next(s for s in self.recommender.release.retriever.sources if s.name == "popular")
        assert isinstance(source, PopularSource)
        known = [self.item_rows(one.session[: scene.begun]) for one in people]
        return np.stack([source.head(K, rows)[0] for rows in known])

    def item_rows(self, ids: Sequence[Any]) -> Ints:
        """[N] rows of the release's vocabulary."""
        vocabulary = self.recommender.view.vocabulary
        return vocabulary.rows(np.asarray(ids, dtype=np.int64))


def answers(one: Newcomer, scene: Scene, question: str) -> set[int]:
    """The items that a newcomer should have been shown."""
    if question == REST:
        return set(one.session[max(BEGUN) :])
    rest, known = set(one.session[scene.begun :]), set(one.session[: scene.begun])
    return rest | (set(one.later) - known if question == WINDOW else set())


def judge(asked: Asked, scene: Scene, questions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row a question: the release beside popular on the same users and answers."""
    people = [one for one in asked.people if answers(one, scene, questions[0])]
    mine, popular = asked.lists(scene, people), asked.popular(scene, people)
    for question in questions:
        wanted = [asked.item_rows(sorted(answers(one, scene, question))) for one in people]
        relevant = Relevant.of(wanted)
        row: dict[str, Any] = {"known": scene.name, "answers": question, "users": len(people)}
        for metric, of in (
            (f"hit@{K}", hit_rate_at_k),
            (f"recall@{K}", recall_at_k),
            (f"ndcg@{K}", ndcg_at_k),
        ):
            ours, theirs = of(mine, relevant, K), of(popular, relevant, K)
            row |= _estimates(metric, ours, theirs)
        yield row


def _estimates(metric: str, ours: Doubles, theirs: Doubles) -> dict[str, float]:
    own, difference = bootstrap(ours, seed=0), bootstrap(ours - theirs, seed=0)
    return {
        metric: own.mean,
        f"{metric} low": own.low,
        f"{metric} high": own.high,
        f"popular {metric}": float(theirs.mean()),
        f"difference {metric}": difference.mean,
        f"difference {metric} low": difference.low,
        f"difference {metric} high": difference.high,
    }


def ask(release: Path, config: Config, whole: Dataset) -> Asked:
    """Load a release beside the newcomers of its window."""
    loaded = Release.load(release)
    rows = Rows(loaded.schema, whole)
    recommender = Recommender(loaded, rows)
    shop = hide(whole, Path(config.folder), config.seed, config.share, 0.0)
    people = newcomers(
        shop,
        f"t{EDGES[config.split]}",
        loaded.retriever.items,
        names=config.names,
        seed=config.seed,
    )
    return Asked(recommender, rows, people)


def run(config: Config) -> tuple[list[dict[str, Any]], int | None]:
    """Fit what is missing; every scene's rows, and see ``places_needed``."""
    loaded = Dataset.load(Path(config.data).resolve() / "dataset.json")
    whole = replace(loaded, earlier=())  # rankers learn from one or two windows
    shop = hide(whole, Path(config.folder), config.seed, config.share, 0.0)
    folders = (Path(config.runs).resolve(), Path(config.releases).resolve())
    asked = ask(fit_system(shop.settings, EDGES[config.split], *folders), config, whole)
    return list(rows_of(asked)), places_needed(asked)


def places_needed(asked: Asked) -> int | None:
    """How long the list of nobody would be in which ``GOAL`` of the first sessions find something.

    None: not even all of it.
    """
    starters = asked.recommender.release.retriever.starters
    assert starters is not None
    place = np.full(asked.recommender.view.vocabulary.num_rows, np.inf)
    place[starters.rows] = np.arange(1, len(starters.rows) + 1)
    first = np.sort([place[asked.item_rows(one.session)].min() for one in asked.people])
    needed = float(first[math.ceil(GOAL * len(first)) - 1])
    return None if math.isinf(needed) else int(needed)


def rows_of(asked: Asked) -> Iterator[dict[str, Any]]:
    """All scenes: on what is left of the session, then on the same items at every step."""
    for scene in SCENES:
        log.info("Asking with %s known.", scene.name)
        yield from judge(asked, scene, (SESSION, WINDOW))
    for scene in SCENES:
        if not scene.profile and scene.named != "bought_from":
            yield from judge(asked, scene, (REST,))


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as they are printed."""
    return [
        {
            "known": row["known"],
            "answers": row["answers"],
            "users": row["users"],
            f"hit@{K}": _with_interval(row, f"hit@{K}"),
            "popular": row[f"popular hit@{K}"],
            "difference": _with_interval(row, f"difference hit@{K}"),
            f"recall@{K}": row[f"recall@{K}"],
            "popular ": row[f"popular recall@{K}"],
            f"ndcg@{K}": row[f"ndcg@{K}"],
            "popular  ": row[f"popular ndcg@{K}"],
        }
        for row in rows
    ]


def _with_interval(row: dict[str, Any], name: str) -> str:
    sign = "+" if name.startswith("difference") else ""
    low, high = row[f"{name} low"], row[f"{name} high"]
    return f"{row[name]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Hits and recall by the number of known items, on the same answers at every step."""
    figure = Figure(figsize=(9.6, 4.0), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for axis, metric in zip(figure.subplots(1, 2), (f"hit@{K}", f"recall@{K}"), strict=True):
        _lines(axis, [row for row in rows if row["answers"] == REST], metric)
    figure.tight_layout(w_pad=1.5)
    save_figure(figure, path)


def _lines(axis: Axes, rows: Sequence[dict[str, Any]], metric: str) -> None:
    by_name = {row["known"]: row for row in rows}
    for label, also, colour in (
        ("shoprec", "", SYSTEM),
        (f"shoprec, {NAMED}", NAMED, COLOURS["ials"]),
    ):
        mine = [by_name[told(count, also)] for count in BEGUN]
        low, high = ([row[f"{metric} {side}"] for row in mine] for side in ("low", "high"))
        axis.fill_between(BEGUN, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.plot(BEGUN, [row[metric] for row in mine], "o-", label=label, color=colour)
    popular = [by_name[told(count)][f"popular {metric}"] for count in BEGUN]
    axis.plot(BEGUN, popular, "o-", label="popular", color=COLOURS["popular"])
    users = rows[0]["users"]
    axis.set_title(f"{metric}, items from the 11th on ({users} users)", loc="left", fontsize=10)
    axis.set_xticks(BEGUN)
    axis.set_xlabel("items of the session that are known", fontsize=9, color=SOFT)
    axis.legend(fontsize=8, frameon=False)
    without_box(axis)


def report(config: Config) -> None:
    """Measure, print, and write the result and its plot."""
    set_up_logging()
    log.setLevel(logging.INFO)
    whole = Dataset.load(Path(config.data).resolve() / "dataset.json")
    lists = list(list_rows(whole, whole.edge("t1"), config.lists, K))
    if lists:
        sys.stdout.write(table(lists) + "\n")
    rows, needed = run(config)
    for question in (SESSION, WINDOW, REST):
        sys.stdout.write(table(shown([r for r in rows if r["answers"] == question])) + "\n")
    sys.stdout.write(f"A list for {GOAL:.0%} of the first sessions would have {needed} places.\n")
    draw(rows, RESULTS / f"{config.name}.png")
    settings = {**asdict(config), "places_needed": needed, "list_rows": lists}
    log.info("Written to %s.", save(config.name, settings, rows))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], Config, HELP, report))
