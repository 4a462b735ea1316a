"""From candidates to lists: scores, filters and the policy, and what is done where they fail.

B requests, N candidates of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.errors import ArtifactError
from ranking.policy import Lists, rank_lists, seen_rows
from serving.asked import Asked
from serving.begun import drawn
from serving.candidates import Found
from serving.experiments.config import NO_RANKER
from serving.experiments.treated import source_weights
from serving.item_view import ItemView
from serving.popular import Popular
from serving.stages import POLICY, RANKING, Run

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FUSION = 60.0
"""Of reciprocal rank fusion."""
GIVEN = "given"
"""Source of an item that the request alone named."""


def score(
    view: ItemView, found: Found, asked: Sequence[Asked], popular: Popular, run: Run
) -> Floats:
    """[N] scores; where ranking fails, by how well the sources place an item.

    Args:
        view: the items.
        found: candidates of B requests.
        asked: [B] with the names of rankers.
        popular: what the lists of users who have only begun are drawn towards.
        run: the pass that this is part of.
    """
    rankers = [one.ranker for one in asked]

    def ranked() -> Floats:
        scores = np.empty(len(found.candidates.item_row), np.float32)
        for name in sorted(set(rankers)):
            users = np.flatnonzero([ranker == name for ranker in rankers])
            some = found.candidates.places_of(users)
            plain = name == NO_RANKER
            scores[some] = (
                _fused(found, asked, users) if plain else _scored(view, name, found, users)
            )
        if not np.isfinite(scores).all():
            raise ArtifactError(f"Of {sorted(set(rankers))} one gives scores that are no numbers.")
        return drawn(found, scores, asked, popular, view.catalogue)

    return run.attempt(RANKING, ranked, lambda: fused(found.candidates))


def _scored(view: ItemView, ranker: str, found: Found, users: Ints) -> Floats:
    """Scores of the candidates of some requests."""
    rows, now_s = found.users.features, found.users.now_s
    assert rows is not None
    some = view.scorable(found.candidates.take(users))
    mine = rows if len(users) == len(now_s) else rows.take(pa.array(users))
    return view.scorers[ranker].score(mine, some, view.scored, now_s[users])


def _fused(found: Found, asked: Sequence[Asked], users: Ints) -> Floats:
    """Scores of the candidates of some requests, by the weights of their sources."""
    some = found.candidates.take(users)
    return fused(some, source_weights(some, [asked[user].sources for user in users.tolist()]))


def fused(candidates: Candidates, weights: Floats | None = None) -> Floats:
    """[N] sum over sources of 1 / (60 + rank): reciprocal rank fusion (Cormack et al., 2009).

    Args:
        candidates: of B requests.
        weights: [N, S] of the sources; None: all 1.
    """
    parts = 1.0 / (FUSION + candidates.rank)
    weighted = parts if weights is None else weights * parts
    return np.asarray(np.nansum(weighted, axis=1), dtype=np.float32)


def choose(
    view: ItemView, found: Found, scores: Floats, group: Sequence[int], asked: Asked, run: Run
) -> Lists:
    """The lists of some of B requests that ask for the same; without the policy where it fails.

    Args:
        view: the items.
        found: candidates of B requests.
        scores: [N]
        group: which requests.
        asked: what they ask for.
        run: the pass that this is part of.
    """
    users = np.asarray(group, dtype=np.int64)
    some, own = found.candidates.take(users), scores[found.candidates.places_of(users)]

    def allowed(candidates: Candidates) -> Bools:
        return view.catalogue.passes(candidates.item_row, asked.filters)

    def policed() -> Lists:
        rows, history = found.users.features, None
        if asked.policy.config.serendipity > 0 and rows is not None:
            history = seen_rows(rows.take(pa.array(users)), view.vocabulary)
        return plain(policy=asked.policy, history=history)

    plain = partial(rank_lists, some, own, asked.n, filters=[allowed])
    lists = run.attempt(POLICY, policed, plain)
    return lists if asked.only is None else _with_given(lists, some)


def _with_given(lists: Lists, candidates: Candidates) -> Lists:
    """What no source named has the source ``given``."""
    source = lists.source.copy()
    for user in range(len(lists)):
        part = candidates.slice_of(user)
        unnamed = candidates.item_row[part][np.isnan(candidates.rank[part]).all(axis=1)]
        source[user, np.isin(lists.item_row[user], unnamed)] = len(candidates.sources)
    return replace(lists, source=source)
