"""Lists that explore: the head of the ranked list, some places of it given to its bandit's choice.

B requests, C arms of one of them, K places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.calibration import Calibration
from ranking.exploration.bandits import Arms, Model, worths
from ranking.exploration.choice import choose as choose_arms
from ranking.exploration.config import ExplorationConfig
from ranking.exploration.contexts import contexts, expectations
from ranking.policy import Lists, seen_rows
from serving.asked import Asked
from serving.candidates import Found
from serving.exploration.explored import DIGITS, Explored
from serving.exploration.facts import ItemFacts
from serving.item_view import ItemView
from serving.ranked import choose
from serving.stages import RANKING, Run

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXPLORATION = "exploration"
"""Name of the stage."""


@dataclass(frozen=True)
class Explorer:
    """What is known now of one scenario's arms."""

    config: ExplorationConfig
    state: str
    model: Model
    items: ItemFacts
    random: np.random.Generator = field(repr=False)

    def places(self, n: int) -> Ints:
        """Those of a list of ``n`` that are explored, from 0, rising."""
        every = np.array(sorted(self.config.places) or range(1, n + 1), np.int64)
        return every[every <= n] - 1


def explore(
    view: ItemView,
    found: Found,
    scores: Floats,
    group: Sequence[int],
    asked: Asked,
    explorer: Explorer,
    run: Run,
) -> tuple[Lists, list[Explored | None]]:
    """As ``serving.ranked.choose``, with some places explored; not where that fails.

    Returns:
        The lists of a group of requests, and of each what was explored; None: nothing.
    """

    def plain() -> tuple[Lists, list[Explored | None]]:
        return choose(view, found, scores, group, asked, run), [None] * len(group)

    def explored() -> tuple[Lists, list[Explored | None]]:
        size = max(asked.n, explorer.config.arms)
        heads = choose(view, found, scores, group, replace(asked, n=size), run)
        ranked = RANKING not in run.degraded and asked.ranker in view.scorers
        calibration = view.scorers[asked.ranker].calibration if ranked else None
        lists, whats = _empty(heads, asked.n), []
        for user, bought in enumerate(_bought(view, found, group)):
            whats.append(_one(view, explorer, heads, lists, user, bought, calibration))
        return lists, whats

    if not len(explorer.places(asked.n)):
        return plain()
    return run.attempt(EXPLORATION, explored, plain)


def _one(
    view: ItemView,
    explorer: Explorer,
    heads: Lists,
    lists: Lists,
    user: int,
    bought: Ints,
    calibration: Calibration | None,
) -> Explored | None:
    """Fill one list."""
    config, k = explorer.config, lists.item_row.shape[1]
    size = int((heads.item_row[user] > 0).sum())
    places = explorer.places(min(k, size))
    others = np.setdiff1d(np.arange(min(k, size)), places)
    item_C, score_C = heads.item_row[user, :size], heads.score[user, :size].astype(np.float64)
    pick_K = np.zeros(min(k, size), np.int64)
    pick_K[others] = np.arange(len(others))
    propensity_K, chosen = np.ones(len(pick_K)), np.zeros(0, np.int64)
    context_CD = contexts(explorer.items.at(item_C, score_C, bought)).round(DIGITS)
    expected_C = expectations(score_C, config.expected, calibration).round(2 * DIGITS)
    ids, first = view.vocabulary.ids_of(item_C), len(others)
    arms = Arms(ids[first:], context_CD[first:], expected_C[first:])
    if len(places):
        rows = worths(config, explorer.model, arms, explorer.random)
        made = choose_arms(rows, config.random_share, len(places), explorer.random)
        chosen = made.arm_P
        pick_K[places], propensity_K[places] = first + chosen, made.propensity_P
    for name in ("item_row", "score", "source"):
        getattr(lists, name)[user, : len(pick_K)] = getattr(heads, name)[user, pick_K]
    if not len(places):
        return None
    return Explored(
        config,
        explorer.state,
        [ids[pick] for pick in pick_K.tolist()],
        propensity_K.tolist(),
        context_CD[pick_K],
        expected_C[pick_K],
        arms.item_ids,
        arms.context_CD,
        arms.expected_C,
        (places + 1).tolist(),
        chosen.tolist(),
    )


def _empty(heads: Lists, k: int) -> Lists:
    shape = (len(heads), k)
    rows, source = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    return Lists(rows, np.full(shape, np.nan, np.float32), source, heads.sources)


def _bought(view: ItemView, found: Found, group: Sequence[int]) -> list[Ints]:
    rows = found.users.features
    if rows is None:
        return [np.zeros(0, np.int64)] * len(group)
    return seen_rows(rows.take(pa.array(group, pa.int64())), view.vocabulary)
