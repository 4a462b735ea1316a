"""Popular items: for users of whom nothing is known, and for places that ranking leaves free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.errors import ArtifactError
from ranking.policy import Policy
from retrieval.retriever import Retriever
from retrieval.sources.base import where_in
from serving.catalogue import Catalogue, Filters

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

POPULAR = "popular"
"""The source that answers unknown users and fills short lists."""
PREFERENCE = 3.0
"""By how much more popular an item counts where the user prefers its category. Chosen on Complete
Journey's validation weeks, where households name the categories of most visits before: preferred
items first of all, whatever their popularity, made lists worse than none preferred."""


@dataclass(frozen=True)
class Popular:
    """What everybody buys, best first."""

    rows: Ints
    """[P]"""
    scores: Floats
    """[P]"""

    @staticmethod
    def of(retriever: Retriever, nobody: pa.Table) -> Popular:
        """A bundle's starters, if it has any, and all else that the popular source names.

        Args:
            retriever: the release's.
            nobody: the row of a user of whom nothing is known.

        Raises:
            ArtifactError: the retriever has no such source.
        """
        source = next((source for source in retriever.sources if source.name == POPULAR), None)
        if source is None:
            names = [source.name for source in retriever.sources]
            raise ArtifactError(
                f"The release's retriever has the sources {names}, but serving needs {POPULAR!r} "
                "for unknown users; export a retriever with it."
            )
        users = replace(retriever.batch(nobody, vectors=False), excluded=None)
        top = source.top(users, len(retriever.encoder.items))
        named = top.item_row[0] > 0
        rows, scores = top.item_row[0][named], top.score[0][named]
        if retriever.starters is None:
            return Popular(rows, scores)
        first = retriever.starters
        rest = rows[~np.isin(rows, first.rows)]
        nothing = np.zeros(len(rest), np.float32)
        return Popular(np.concatenate([first.rows, rest]), np.concatenate([first.scores, nothing]))

    def places(self, item_row: Ints, preferred: Sequence[str], catalogue: Catalogue) -> Floats:
        """[N] places of items in the list of a user with such preferences, from 1; else infinity.

        Args:
            item_row: [N]
            preferred: categories whose items count ``PREFERENCE`` times.
            catalogue: of all items.
        """
        order = self._order(np.arange(len(self.rows)), preferred, catalogue)
        place = np.empty(len(order), np.float32)
        place[order] = np.arange(1, len(order) + 1)
        found, named = where_in(item_row, self.rows[self._rising])
        return np.where(named, place[self._rising[found]], np.float32(np.inf))

    @cached_property
    def _rising(self) -> Ints:
        """[P] places of the list in the order of their rows."""
        return np.argsort(self.rows)

    def _order(self, places: Ints, preferred: Sequence[str], catalogue: Catalogue) -> Ints:
        """Some places of the list, best first."""
        if not preferred:
            return places
        liked = catalogue.in_categories(self.rows[places], preferred)
        worth = self.scores[places] * np.where(liked, PREFERENCE, 1.0)
        return np.asarray(places[np.argsort(-worth, kind="stable")])

    def fillers(
        self,
        shown: Ints,
        count: int,
        *,
        barred: Ints,
        only: Ints | None,
        catalogue: Catalogue,
        filters: Filters,
        policy: Policy,
        preferred: Sequence[str],
    ) -> tuple[Ints, Floats]:
        """Up to ``count`` more items for a list, and their popularity.

        Args:
            shown: item rows that the list has.
            count: places that are left.
            barred: item rows to leave out.
            only: the item rows that the list may hold; None: any.
            catalogue: of all items.
            filters: what the items must be.
            policy: see ``Policy.fillers``.
            preferred: categories whose items count ``PREFERENCE`` times.
        """
        fits = catalogue.passes(self.rows, filters)
        fits &= ~np.isin(self.rows, np.concatenate([shown, barred]))
        if only is not None:
            fits &= np.isin(self.rows, only)
        places = self._order(np.flatnonzero(fits), preferred, catalogue)
        places = places[policy.fillers(shown, self.rows[places], count)]
        return self.rows[places], self.scores[places]
