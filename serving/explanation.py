"""What a list says of itself when asked: which sources named an item, and why it stands there.

The candidates are found once more for it, so that requests that do not ask pay nothing.
K items are explained.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.candidates import Candidates, merge
from ranking.explain import Explainer, Reason
from ranking.phrases import source_phrase
from ranking.policy import seen_rows
from retrieval.sources import NeighbourSource, UserBatch
from serving.catalogue import Catalogue
from serving.release import Release

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

POPULAR = "popular"
"""The source that answers unknown users and fills short lists."""
STAGE = "explain"
"""Name in ``degraded``."""


@dataclass(frozen=True)
class Explanation:
    """Where one item came from, and why it stands where it does."""

    sources: dict[str, int]
    """Source -> the item's place in its list, from 1; the best place first."""
    reasons: list[Reason]
    """What raised it most; the greatest first."""


NOTHING = Explanation({}, [])


@dataclass(frozen=True)
class _Request:
    """One user's request, with its candidates."""

    user_rows: pa.Table
    users: UserBatch
    candidates: Candidates

    def places(self, item_row: Ints) -> Ints:
        """[K] places of items among the candidates; -1 where an item is none of them."""
        rows = np.append(self.candidates.item_row, 0)
        place = np.searchsorted(rows[:-1], item_row)
        return np.where(rows[place] == item_row, place, -1)

    def sources(self, place: int) -> dict[str, int]:
        """Source -> rank of one candidate, the best first."""
        ranks = self.candidates.rank[place]
        named = [index for index in np.argsort(ranks, kind="stable") if not np.isnan(ranks[index])]
        return {self.candidates.sources[index]: int(ranks[index]) for index in named}


class Explanations:
    """Explains the lists of one release."""

    def __init__(self, release: Release, catalogue: Catalogue, popular_rows: Ints) -> None:
        self._release = release
        self._catalogue = catalogue
        self._popular_place = {row: place for place, row in enumerate(popular_rows.tolist(), 1)}

    def of(
        self,
        user_rows: pa.Table,
        item_row: Ints,
        *,
        known: bool,
        barred: Ints,
        exclude_seen: bool,
    ) -> tuple[list[Explanation], list[str]]:
        """Explanations of one user's list; it never raises.

        Args:
            user_rows: the user's row.
            item_row: [K] the list.
            known: whether anything is known of the user; else the list holds popular items.
            barred: item rows that the request left out.
            exclude_seen: whether it left out what the user is known to have bought.

        Returns:
            [K] explanations, and the stages that failed: what cannot be explained has the sources
            alone, if it has them.
        """
        found = [NOTHING] * len(item_row)
        try:
            if not known:
                return [self._popular(row) for row in item_row.tolist()], []
            request = self._request(user_rows, barred, exclude_seen)
            found = self._sources(request, item_row)
            found = self._with_reasons(request, found, item_row, exclude_seen)
        except Exception:
            log.exception("A list could not be explained; it is answered without its reasons.")
            return found, [STAGE]
        return found, []

    def _request(self, user_rows: pa.Table, barred: Ints, exclude_seen: bool) -> _Request:
        """The candidates of the request, as they were found to answer it."""
        retriever = self._release.retriever
        seen = seen_rows(user_rows, retriever.items) if exclude_seen else []
        excluded = [np.concatenate([*seen, barred])]
        users = retriever.batch(user_rows, None, excluded)
        return _Request(user_rows, users, merge(retriever.lists(users), excluded))

    def _sources(self, request: _Request, item_row: Ints) -> list[Explanation]:
        return [
            Explanation(request.sources(place), []) if place >= 0 else self._popular(row)
            for place, row in zip(request.places(item_row).tolist(), item_row.tolist(), strict=True)
        ]

    def _popular(self, row: int) -> Explanation:
        """Of an item that was no candidate, but fills up the list."""
        if row not in self._popular_place:
            return NOTHING
        words = Reason(source_phrase(POPULAR), POPULAR, None)
        return Explanation({POPULAR: self._popular_place[row]}, [words])

    def _with_reasons(
        self,
        request: _Request,
        found: Sequence[Explanation],
        item_row: Ints,
        exclude_seen: bool,
    ) -> list[Explanation]:
        places = request.places(item_row)
        ranked = np.flatnonzero(places >= 0)
        ranker = self._release.ranker_for(exclude_seen=exclude_seen)
        reasons = Explainer(self._release.scorers[ranker]).reasons(
            request.user_rows,
            request.candidates,
            self._release.retriever.items,
            request.users.now_s,
            places[ranked],
            self._together(request.users, item_row[ranked]),
        )
        filled = list(found)
        for place, own in zip(ranked.tolist(), reasons, strict=True):
            filled[place] = replace(filled[place], reasons=own)
        return filled

    def _together(self, users: UserBatch, item_row: Ints) -> list[dict[str, str]]:
        """K times source -> title of the item of the history through which it names the item."""
        titles: list[dict[str, str]] = [{} for _ in item_row]
        for source in self._release.retriever.sources:
            if isinstance(source, NeighbourSource):
                rows = origins(source, users, item_row)
                led = np.flatnonzero(rows)
                shown = self._catalogue.describe(rows[led])
                for place, columns in zip(led.tolist(), shown, strict=True):
                    if columns.get("title"):
                        titles[place][source.name] = str(columns["title"])
        return titles


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
