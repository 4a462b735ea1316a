"""Online quality in the recent window against history: one result a metric, one family of tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from feature_repo.contract.snapshot import Spread
from serving.monitor.config import MonitorConfig
from serving.monitor.drift import Drift, drifts
from serving.monitor.facts import ReleaseFacts
from serving.monitor.joined import Bools, Doubles, Ints, Shown
from serving.monitor.statistics import Change, change, false_discovery

CLICKS, PRECISION = "click_through", "precision"
NOVELTY, COVERAGE, CALIBRATION = "novelty", "coverage", "calibration"
SCORE = "score"
GROUPS = 40
"""Of users, by whom coverage is told: each group's lists are one unit."""
LEAST_PLACES = 20
"""Of a group in a window; fewer are too few to tell how many items differ."""
BINS = 10
"""Of scores, by whose click-through calibration is told."""


@dataclass(frozen=True)
class Outcome:
    """One metric, then and now."""

    name: str
    title: str
    change: Change
    both_ways: bool = False
    """Whether a rise is an alarm as well."""
    percent: bool = True
    q: float | None = None
    """p of the fall, or of the change where both ways count, adjusted for all of the family."""
    alarm: bool = False

    @property
    def p(self) -> float | None:
        """Of what would raise an alarm."""
        return self.change.p_change if self.both_ways else self.change.p_fall


@dataclass(frozen=True)
class ScoreBin:
    """Places whose scores were alike in history."""

    low: float
    high: float
    places: int
    expected: float
    """Click-through of such scores before."""
    observed: float


def outcomes(shown: Shown, facts: ReleaseFacts, config: MonitorConfig) -> list[Outcome]:
    """Every metric of which there are recent answers and some before."""
    measured = [*_rates(shown, facts, config), *_coverage(shown, config)]
    measured += [*_exposure(shown, facts, config), *_calibration(shown, config)]
    adjusted = false_discovery([one.p for one in measured])
    return [
        replace(one, q=q, alarm=_is_alarm(one, q, config))
        for one, q in zip(measured, adjusted, strict=True)
    ]


def _is_alarm(one: Outcome, q: float | None, config: MonitorConfig) -> bool:
    relative = one.change.relative
    if q is None or relative is None or q >= config.level:
        return False
    return -relative >= config.least_fall or (one.both_ways and relative >= config.least_fall)


def _rates(shown: Shown, facts: ReleaseFacts, config: MonitorConfig) -> Iterator[Outcome]:
    windows = config.num_blocks + 1
    places = shown.sums(windows, np.ones(len(shown.item_P)))
    clicks, taken = (shown.sums(windows, own) for own in (shown.clicked_P, shown.taken_P))
    yield Outcome(CLICKS, "clicks per item shown", change(clicks, places))
    yield Outcome(PRECISION, "items taken per item shown", change(taken, places))
    known = facts.known(shown.users)
    for name, users in (("known users", known), ("new users", ~known)):
        mine = change(clicks * users, places * users)
        yield Outcome(f"{CLICKS}: {name}", f"clicks per item shown, {name}", mine)
    bits = facts.bits_R[facts.rows_of(shown.items)][shown.item_P]
    is_told = np.isfinite(bits)
    sums = shown.sums(windows, np.nan_to_num(bits)), shown.sums(windows, is_told)
    yield Outcome(NOVELTY, "bits per item shown", change(*sums), percent=False)


def _exposure(shown: Shown, facts: ReleaseFacts, config: MonitorConfig) -> Iterator[Outcome]:
    windows, rows_P = config.num_blocks + 1, facts.rows_of(shown.items)[shown.item_P]
    places = shown.sums(windows, np.ones(len(rows_P)))
    for name, member_R in facts.groups.items():
        mine = shown.sums(windows, member_R[rows_P])
        yield Outcome(f"exposure: {name}", f"places of {name}", change(mine, places))


def _coverage(shown: Shown, config: MonitorConfig) -> Iterator[Outcome]:
    """How many items differ among equally many places: more places name more items."""
    windows = config.num_blocks + 1
    random = np.random.default_rng(0)
    group_U = random.permutation(len(shown.users)) % GROUPS
    cell_P = shown.window_of_place * GROUPS + group_U[shown.user_of_place]
    order = random.permutation(len(cell_P))
    order = order[np.argsort(cell_P[order], kind="stable")]
    counts = np.bincount(cell_P, minlength=windows * GROUPS)
    used = counts[counts >= LEAST_PLACES]
    if not len(used):
        return
    starts, size = np.cumsum(counts) - counts, int(used.min())
    distinct = np.zeros(windows * GROUPS)
    for cell in np.flatnonzero(counts >= LEAST_PLACES):
        mine = order[starts[cell] : starts[cell] + size]
        distinct[cell] = len(np.unique(shown.item_P[mine]))
    y = distinct.reshape(windows, GROUPS)
    title = f"distinct items in {size} places"
    yield Outcome(COVERAGE, title, change(y, (y > 0).astype(np.float64)), percent=False)


def _calibration(shown: Shown, config: MonitorConfig) -> Iterator[Outcome]:
    kept, expected_P = _expected(shown)
    if not len(kept):
        return
    some = _places(shown, kept)
    windows = config.num_blocks + 1
    sums = some.sums(windows, some.clicked_P), some.sums(windows, expected_P)
    title = "clicks per click that such scores had before"
    yield Outcome(CALIBRATION, title, change(*sums), both_ways=True)


def _places(shown: Shown, kept: Ints) -> Shown:
    names = ("answer_P", "item_P", "score_P", "first_P", "clicked_P", "taken_P")
    return replace(shown, **{name: getattr(shown, name)[kept] for name in names})


def latest_version(shown: Shown) -> str | None:
    """The release that answered last; scores of others are on other scales."""
    return str(shown.version_A[shown.at_A.argmax()]) if len(shown.at_A) else None


def _scored(shown: Shown) -> Bools:
    """[P] places of the latest release that have a score."""
    same = shown.version_A == latest_version(shown)
    return np.asarray(same[shown.answer_P] & np.isfinite(shown.score_P))


def _edges(shown: Shown, before_P: Bools) -> Doubles:
    return np.unique(np.quantile(shown.score_P[before_P], np.linspace(0, 1, BINS + 1)[1:-1]))


def _expected(shown: Shown) -> tuple[Ints, Doubles]:
    """Scored places, and the click-through that their scores had in history."""
    scored = _scored(shown)
    before = scored & (shown.window_of_place > 0)
    kept = np.flatnonzero(scored)
    if not shown.clicked_P[before].any():
        return np.zeros(0, np.int64), np.zeros(0)
    edges = _edges(shown, before)
    bins = np.searchsorted(edges, shown.score_P)
    places = np.bincount(bins[before], minlength=len(edges) + 1)
    clicks = np.bincount(bins[before], shown.clicked_P[before], minlength=len(edges) + 1)
    rates = clicks / np.maximum(places, 1)
    return kept, rates[bins[kept]]


def score_bins(shown: Shown) -> list[ScoreBin]:
    """Click-through by score, before and now; empty where scores are not logged."""
    scored = _scored(shown)
    before, now = scored & (shown.window_of_place > 0), scored & (shown.window_of_place == 0)
    if not before.any() or not now.any():
        return []
    edges = _edges(shown, before)
    bins, found = np.searchsorted(edges, shown.score_P), []
    for place, (low, high) in enumerate(zip([-np.inf, *edges], [*edges, np.inf], strict=True)):
        then, mine = before & (bins == place), now & (bins == place)
        if then.any() and mine.any():
            rates = (float(shown.clicked_P[own].mean()) for own in (then, mine))
            found.append(ScoreBin(float(low), float(high), int(mine.sum()), *rates))
    return found


def top_scores(shown: Shown, recent: bool) -> Doubles:
    """[U] scores of the first place of each user's latest answer in one of the two times."""
    wanted = _scored(shown) & shown.first_P & ((shown.window_of_place == 0) == recent)
    places = np.flatnonzero(wanted)
    places = places[np.argsort(shown.at_A[shown.answer_P[places]], kind="stable")]
    latest = dict(zip(shown.user_of_place[places].tolist(), places.tolist(), strict=True))
    return shown.score_P[list(latest.values())]


def prediction_drift(
    shown: Shown, facts: ReleaseFacts, config: MonitorConfig
) -> tuple[Sequence[Drift], str | None]:
    """Whether first places' scores are spread as before; and with what they are compared."""
    now, before = top_scores(shown, recent=True), top_scores(shown, recent=False)
    snapshot = facts.snapshot
    if len(before) >= len(now):
        reference, about = Spread.of_numbers(SCORE, before), "the history's answers"
    elif snapshot is not None and snapshot.scores is not None:
        if latest_version(shown) != facts.about.version:
            return [], None
        reference, about = replace(snapshot.scores, name=SCORE), "the release's snapshot"
    else:
        return [], None
    if not len(now):
        return [], None
    return drifts([reference], {SCORE: reference.count_numbers(now)}, config), about
