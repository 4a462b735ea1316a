"""A request as the pipeline takes it: rows in place of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy import Policy
from serving.catalogue import Filters
from serving.experiments.treated import Weights, fitting
from serving.ids import Id
from serving.item_view import ItemView
from serving.query import Query
from serving.release import Release

if TYPE_CHECKING:
    from serving.exploration.lists import Explorer
    from serving.exploration.running import Exploration

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What one list must be."""

    n: int
    ranker: str
    policy: Policy
    filters: Filters
    barred: Ints
    """Item rows to leave out."""
    exclude_seen: bool = False
    only: Ints | None = None
    """Rising item rows, the only ones that it may hold; None: any."""
    preferred: tuple[str, ...] = ()
    """Categories whose popular items come earlier where little is known of the user."""
    sources: Weights = ()
    """The only candidate sources that count, with their weights; empty: all."""
    lacking: bool = False
    """Whether an experiment's variant names what the release does not have."""
    explorer: Explorer | None = None
    """None: the list does not explore."""

    @staticmethod
    def of(
        query: Query, release: Release, view: ItemView, exploration: Exploration | None = None
    ) -> Asked:
        """What a checked request asks for; without ``exploration`` no list explores."""
        usual = release.ranker_for(exclude_seen=query.exclude_seen)
        named = query.scenario if query.scenario in release.scorers else None
        only = query.candidate_items
        levers, lacking = fitting(query.treatment, release, view.policies)
        policy = view.policies.get(levers.policy, view.policy)
        explorer = None
        if exploration is not None and policy.config.exploration and only is None:
            explorer = exploration.explorer(policy.config, named or usual, release)
        return Asked(
            n=query.n,
            ranker=levers.ranker or named or usual,
            policy=policy.with_diversity(query.diversity),
            filters=query.filters,
            barred=rows_of(view.vocabulary, [*query.exclude, *query.anchor_items]),
            exclude_seen=query.exclude_seen,
            only=None if only is None else _distinct(rows_of(view.vocabulary, only)),
            preferred=tuple(query.preferred_categories),
            sources=levers.sources,
            lacking=lacking,
            explorer=explorer,
        )


def rows_of(vocabulary: Vocabulary, ids: Sequence[Id]) -> Ints:
    """[N] rows of ids; 0 of those that are unknown."""
    return vocabulary.rows(pa.array(ids, vocabulary.ids.type))


def _distinct(rows: Ints) -> Ints:
    """Rising, each once, without the unknown item."""
    found = np.unique(rows)
    return found[found > 0]
