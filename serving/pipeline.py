"""The one way that every list goes, of one request or of many together.

    user rows -> candidates -> scores -> the policy's choice -> popular items in the places left

Scores of users who have only begun are drawn towards popularity (``serving.begun``).

B requests, K places. Each step is a stage (``serving.stages``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from feature_repo.contract.columns import AnyRows, Rows, filled
from feature_repo.contract.schema import Encoding, Entity, Schema
from ranking.policy import Lists, seen_rows
from retrieval.retriever import Retriever
from serving.asked import Asked
from serving.candidates import Found, find, restrict
from serving.experiments.treated import from_sources
from serving.exploration.explored import Explored
from serving.exploration.lists import explore
from serving.item_view import ItemView
from serving.popular import POPULAR, Popular
from serving.ranked import GIVEN, choose, score
from serving.stages import RETRIEVAL, Run

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Made:
    """The lists of B requests, and what they were made of."""

    lists: Lists
    """[B, K]; a request that asked for fewer than K items has no more."""
    known: Bools
    """[B] whether anything is known of the user; the others have popular items."""
    found: Found | None
    """Of those that are known, in their order; None where there is none, or finding failed."""
    explored: Mapping[int, Explored | None] = field(default_factory=dict)
    """Request -> what its list explored, of those that do."""

    def found_for(self, user: int) -> Found | None:
        """What one request's list was made of."""
        if self.found is None or not self.known[user]:
            return None
        return self.found.of(int(self.known[:user].sum()))


class Pipeline:
    """Makes lists from the models of one release."""

    def __init__(self, retriever: Retriever, schema: Schema, popular: Popular) -> None:
        self._retriever = retriever
        self._telling = [
            feature.name
            for feature in schema.of(Entity.USER)
            if feature.encoding is not Encoding.CATEGORICAL
        ]
        self._popular = popular
        names = tuple(source.name for source in retriever.sources)
        self._sources = (*names, GIVEN)
        self._popular_source = names.index(POPULAR)

    def known(self, user_rows: AnyRows) -> Bools:
        """[B] whether a row has anything of what a user did: neither null nor an empty list.

        Attributes alone make no user known: their lists are worse than those of nobody
        (``benchmarks.first_session``).
        """
        known = np.zeros(len(user_rows), dtype=np.bool_)
        for name in self._telling:
            if known.all():
                break
            if name in user_rows.column_names:
                known |= filled(user_rows, name)
        return known

    def lists(
        self, view: ItemView, user_rows: AnyRows, now_s: Ints, asked: Sequence[Asked], run: Run
    ) -> Made:
        """The lists of B requests.

        Args:
            view: the items.
            user_rows: B rows of user features.
            now_s: [B] epoch seconds.
            asked: B requests.
            run: the pass that this is.
        """
        rows = Rows.of(user_rows)
        known, barred = self.known(rows), _barred(view, rows, asked)
        lists = self._empty(len(asked), max((one.n for one in asked), default=1))
        users = np.flatnonzero(known)
        found = None
        explored: Mapping[int, Explored | None] = {}
        if len(users):

            def personal() -> Found:
                mine = rows if known.all() else rows.take(users)
                out = [barred[user] for user in users.tolist()]
                return find(self._retriever, mine, now_s[users], out, run, view.fresh)

            found = run.attempt(RETRIEVAL, personal, lambda: None)
        if found is not None:
            chosen = [asked[user].sources for user in users.tolist()]
            found = replace(found, candidates=from_sources(found.candidates, chosen))
            found = _restricted(found, users, asked, barred)
            mine = [asked[user] for user in users.tolist()]
            explored = self._rank(view, found, users, mine, lists, run)
        for user, one in enumerate(asked):
            self._fill(view, lists, user, one, barred[user], new=not known[user])
        return Made(lists, known, found, explored)

    def popular(self, view: ItemView, asked: Asked) -> Lists:
        """[1, K] the list of a request without its user's features; it takes no model."""
        lists = self._empty(1, asked.n)
        self._fill(view, lists, 0, asked, asked.barred, new=True)
        return lists

    def _rank(
        self,
        view: ItemView,
        found: Found,
        users: Ints,
        asked: Sequence[Asked],
        lists: Lists,
        run: Run,
    ) -> dict[int, Explored | None]:
        """Put the best candidates into the lists of their users; return what was explored."""
        scores = score(view, found, asked, self._popular, run)
        explored: dict[int, Explored | None] = {}
        for group in _alike(asked):
            one = asked[group[0]]
            if one.explorer is None:
                own = choose(view, found, scores, group, one, run)
            else:
                own, whats = explore(view, found, scores, group, one, one.explorer, run)
                explored |= dict(zip(users[group].tolist(), whats, strict=True))
            place = np.ix_(users[group], np.arange(one.n))
            lists.item_row[place], lists.score[place] = own.item_row, own.score
            lists.source[place] = own.source
        return explored

    def _empty(self, num_users: int, k: int) -> Lists:
        shape = (num_users, k)
        return Lists(
            np.zeros(shape, np.int64),
            np.full(shape, np.nan, np.float32),
            np.full(shape, -1, np.int64),
            self._sources,
        )

    def _fill(
        self, view: ItemView, lists: Lists, user: int, asked: Asked, barred: Ints, *, new: bool
    ) -> None:
        """Put popular items into the places that are left of one list."""
        free = np.flatnonzero(lists.item_row[user, : asked.n] == 0)
        if not len(free):
            return
        shown = lists.item_row[user][lists.item_row[user] > 0]
        rows, popularity = self._popular.fillers(
            shown,
            len(free),
            barred=barred,
            only=asked.only,
            catalogue=view.catalogue,
            filters=asked.filters,
            policy=asked.policy,
            preferred=asked.preferred if new else (),
        )
        places = free[: len(rows)]
        lists.item_row[user, places] = rows
        lists.score[user, places] = np.nan if len(shown) else popularity
        lists.source[user, places] = self._popular_source
        if asked.only is not None:
            rest = np.setdiff1d(asked.only, np.concatenate([shown, rows, barred]))
            rest = rest[view.catalogue.passes(rest, asked.filters)]
            places = free[len(rows) :][: len(rest)]
            lists.item_row[user, places] = rest[: len(places)]
            lists.source[user, places] = len(self._sources) - 1


def _restricted(found: Found, users: Ints, asked: Sequence[Asked], barred: Sequence[Ints]) -> Found:
    """With all items that the requests of ``users`` name as candidates, where they name them."""
    only = [
        None if own is None else np.setdiff1d(own, barred[user])
        for user in users.tolist()
        for own in [asked[user].only]
    ]
    return replace(found, candidates=restrict(found.candidates, only))


def _alike(asked: Sequence[Asked]) -> list[list[int]]:
    """Requests whose lists can be chosen together."""
    groups: dict[tuple[int, float, int, int, int, bool], list[int]] = {}
    for place, one in enumerate(asked):
        rules = id(one.policy.items)  # each variant's policy has its own
        ids = rules, id(one.filters), id(one.explorer)
        key = one.n, one.policy.config.diversity, *ids, one.only is None
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _barred(view: ItemView, user_rows: AnyRows, asked: Sequence[Asked]) -> list[Ints]:
    """Per request, all item rows that its list must not hold."""
    if not any(one.exclude_seen for one in asked):
        return [one.barred for one in asked]
    seen = seen_rows(user_rows, view.vocabulary)
    return [
        np.concatenate([own, one.barred]) if one.exclude_seen else one.barred
        for own, one in zip(seen, asked, strict=True)
    ]
