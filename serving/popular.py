"""Popular items: for users of whom nothing is known, and for places that ranking leaves free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.errors import ArtifactError
from ranking.policy import Policy
from retrieval.retriever import Retriever
from serving.catalogue import Catalogue, Filters

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

POPULAR = "popular"
"""The source that answers unknown users and fills short lists."""


@dataclass(frozen=True)
class Popular:
    """What everybody buys, best first."""

    rows: Ints
    """[P]"""
    scores: Floats
    """[P]"""

    @staticmethod
    def of(retriever: Retriever, nobody: pa.Table) -> Popular:
        """Everything that the popular source names, whatever its quota.

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
        return Popular(top.item_row[0][named], top.score[0][named])

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
            preferred: categories whose items come first.
        """
        fits = catalogue.passes(self.rows, filters)
        fits &= ~np.isin(self.rows, np.concatenate([shown, barred]))
        if only is not None:
            fits &= np.isin(self.rows, only)
        places = np.flatnonzero(fits)
        if preferred:
            first = catalogue.in_categories(self.rows[places], preferred)
            places = np.concatenate([places[first], places[~first]])
        places = places[policy.fillers(shown, self.rows[places], count)]
        return self.rows[places], self.scores[places]
