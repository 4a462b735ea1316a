"""What a list says of itself when asked: which sources named an item, and why it stands there.

K items are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ranking.explain import Explainer
from ranking.phrases import source_phrase
from ranking.reason import Reason
from retrieval.retriever import Retriever
from retrieval.sources import NeighbourSource, UserBatch
from serving.candidates import Found
from serving.experiments.config import NO_RANKER
from serving.item_view import ItemView
from serving.popular import POPULAR
from serving.stages import EXPLAIN, Run

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Explanation:
    """Where one item came from, and why it stands where it does."""

    sources: dict[str, int]
    """Source -> the item's place in its list, from 1; the best place first."""
    reasons: list[Reason]
    """What raised it most; the greatest first."""


NOTHING = Explanation({}, [])


class Explanations:
    """Explains the lists of one release."""

    def __init__(self, retriever: Retriever, popular_rows: Ints) -> None:
        self._retriever = retriever
        self._popular_place = {row: place for place, row in enumerate(popular_rows.tolist(), 1)}

    def of(
        self, view: ItemView, found: Found | None, item_row: Ints, ranker: str, run: Run
    ) -> list[Explanation]:
        """[K] explanations of one user's list; where reasons fail, of the sources alone.

        Args:
            view: the items.
            found: what the list was made of; None where it holds popular items alone.
            item_row: [K] the list.
            ranker: name of the ranker that made it.
            run: the pass that this is part of.
        """
        if found is None:
            return [self._popular(row) for row in item_row.tolist()]
        named = self._sources(found, item_row)

        if ranker == NO_RANKER:
            return named

        def reasoned() -> list[Explanation]:
            return self._with_reasons(view, found, named, item_row, ranker)

        return run.attempt(EXPLAIN, reasoned, lambda: named)

    def _sources(self, found: Found, item_row: Ints) -> list[Explanation]:
        return [
            Explanation(_sources(found, place), []) if place >= 0 else self._popular(row)
            for place, row in zip(_places(found, item_row).tolist(), item_row.tolist(), strict=True)
        ]

    def _popular(self, row: int) -> Explanation:
        """Of an item that was no candidate, but fills up the list."""
        if row not in self._popular_place:
            return NOTHING
        words = Reason(source_phrase(POPULAR), POPULAR, None)
        return Explanation({POPULAR: self._popular_place[row]}, [words])

    def _with_reasons(
        self,
        view: ItemView,
        found: Found,
        named: Sequence[Explanation],
        item_row: Ints,
        ranker: str,
    ) -> list[Explanation]:
        assert found.users.features is not None
        places = _places(found, item_row)
        known = (places >= 0) & (item_row < view.scored.num_rows)
        if not known.any():
            return list(named)
        reasons = Explainer(view.scorers[ranker]).reasons(
            found.users.features,
            view.scorable(found.candidates),
            view.scored,
            found.users.now_s,
            places[known],
            self._together(view, found.users, item_row[known]),
        )
        filled = list(named)
        for place, own in zip(np.flatnonzero(known).tolist(), reasons, strict=True):
            filled[place] = replace(filled[place], reasons=own)
        return filled

    def _together(self, view: ItemView, users: UserBatch, item_row: Ints) -> list[dict[str, str]]:
        """K times source -> title of the item of the history through which it names the item."""
        titles: list[dict[str, str]] = [{} for _ in item_row]
        for source in self._retriever.sources:
            if isinstance(source, NeighbourSource):
                rows = origins(source, users, item_row)
                led = np.flatnonzero(rows)
                shown = view.catalogue.describe(rows[led])
                for place, columns in zip(led.tolist(), shown, strict=True):
                    if columns.get("title"):
                        titles[place][source.name] = str(columns["title"])
        return titles


def _places(found: Found, item_row: Ints) -> Ints:
    """[K] places of items among one request's candidates; -1 where an item is none of them."""
    rows = np.append(found.candidates.item_row, 0)
    place = np.searchsorted(rows[:-1], item_row)
    return np.where(rows[place] == item_row, place, -1)


def _sources(found: Found, place: int) -> dict[str, int]:
    """Source -> rank of one candidate, the best first."""
    ranks = found.candidates.rank[place]
    named = [index for index in np.argsort(ranks, kind="stable") if not np.isnan(ranks[index])]
    return {found.candidates.sources[index]: int(ranks[index]) for index in named}


def origins(source: NeighbourSource, users: UserBatch, item_row: Ints) -> Ints:
    """[K] the item of one user's history that adds most to the source's score; 0 where none."""
    history = users.histories.item_row
    worth = users.worth(source.transform, source.half_life_days)
    neighbours, weights = source.neighbours[history], source.weights[history] * worth[:, None]
    found = np.zeros(len(item_row), dtype=np.int64)
    for place, row in enumerate(item_row.tolist()):
        parts = np.where(neighbours == row, weights, 0.0).sum(axis=1)
        if parts.max(initial=0.0) > 0:
            found[place] = history[parts.argmax()]
    return found
