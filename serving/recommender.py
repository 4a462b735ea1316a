"""The recommender: requests in, lists out; the same code for one user and for all."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.encoding import query_times_s
from ranking.policy import Lists
from ranking.policy_config import PolicyConfig
from serving.answers import Item, Recommendation
from serving.asked import Asked, rows_of
from serving.catalogue import Filters
from serving.experiments.treated import EXPERIMENT
from serving.explanation import Explanations
from serving.exploration.explored import told
from serving.ids import Id, check_id
from serving.item_log import ItemLog
from serving.item_view import ItemView
from serving.live_items import LiveItems
from serving.online import OnlineStore, UserFeatures
from serving.pipeline import Made, Pipeline
from serving.popular import Popular
from serving.query import ANY, Query, require_diversity, require_length
from serving.ranked import GIVEN
from serving.release import Release
from serving.similar import ANN, similar_rows
from serving.stages import FEATURES, Run
from serving.user_rows import UserReader

if TYPE_CHECKING:
    from serving.exploration.running import Exploration

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SCENARIO = "scenario"
"""Name in ``degraded`` where the release lacks the ranker that a request names."""


class Recommender:
    """Answers requests from one release and one online store; may be used by many threads."""

    def __init__(
        self,
        release: Release,
        online: UserFeatures,
        policy: PolicyConfig | None = None,
        items: ItemLog | None = None,
    ) -> None:
        """Answer from a release.

        Args:
            release: models and items.
            online: where user features come from.
            policy: of lists; None: the release's.
            items: the log of what changed of the items; None: changes are kept in memory.
        """
        self.release = release
        self.exploration: Exploration | None = None
        """Of a server; None: no list explores, whatever the policy says."""
        self.items = LiveItems(release, policy, items)
        self._users = UserReader(release, online)
        popular = Popular.of(release.retriever, self._users.nobodies([None]))
        self._pipeline = Pipeline(release.retriever, release.schema, popular)
        self._explanations = Explanations(release.retriever, popular.rows)

    @staticmethod
    def load(
        path: Path | str, online: UserFeatures | None = None, policy: Sequence[str] = ()
    ) -> Recommender:
        """Load a release and verify it.

        Args:
            path: the release's folder, such as ``releases/current``.
            online: where user features come from; by default the online store that ``REDIS_URL``
                names, else the embedded one, connected to when it is first needed.
            policy: ``policy.KEY=VALUE`` settings that are laid over the release's own.

        Raises:
            ArtifactError: the release is missing or changed, or its golden rows are answered
                otherwise than when it was exported.
            ConfigError: the policy's settings do not hold for this release.
        """
        release = Release.load(path)
        about = release.about
        store = online or OnlineStore(about.project, release.schema, about.user_id)
        return Recommender(release, store, release.policy_config.updated(policy))

    @property
    def view(self) -> ItemView:
        """What requests read of items, at this moment."""
        return self.items.view

    @property
    def index_version(self) -> str:
        """Of the item index and, after a plus, how many changes of items came since."""
        return self._index_version(self.view)

    def _index_version(self, view: ItemView) -> str:
        return f"{self.release.index_version}+{view.num_changes}"

    def recommend(
        self,
        user_id: Id,
        n: int = 10,
        exclude_seen: bool = False,
        exclude: Sequence[Id] = (),
        filters: Filters = ANY,
        diversity: float | None = None,
        explain: bool = False,
        *,
        scenario: str | None = None,
        anchor_items: Sequence[Id] = (),
        candidate_items: Sequence[Id] | None = None,
        preferred_categories: Sequence[str] = (),
    ) -> Recommendation:
        """The best items for one user; see ``Query`` for the arguments.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        query = Query(
            user_id,
            n,
            exclude_seen,
            exclude,
            filters,
            diversity,
            explain,
            scenario,
            anchor_items,
            candidate_items,
            preferred_categories,
        )
        return self.answer([query])[0]

    def answer(self, queries: Sequence[Query], run: Run | None = None) -> list[Recommendation]:
        """Answer requests together, in their order.

        Args:
            queries: B requests.
            run: with a deadline; by default there is none.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        return self._answer(queries, self.view, run or Run())

    def _answer(self, queries: Sequence[Query], view: ItemView, run: Run) -> list[Recommendation]:
        started = time.perf_counter()
        for query in queries:
            query.require(self.release.about)
        rows, lost = self._users.rows(queries, run)
        asked = [Asked.of(query, self.release, view, self.exploration) for query in queries]
        made = self._pipeline.lists(view, rows, query_times_s(rows), asked, run)
        items = self.describe(made.lists)
        for place, (query, one) in enumerate(zip(queries, asked, strict=True)):
            if query.explain:
                items[place] = self._explained(view, made, place, items[place], one.ranker, run)
        answers = [
            self._answered(view, own, [*run.degraded, *self._lacking(query, one, gone)], started)
            for query, one, own, gone in zip(queries, asked, items, lost.tolist(), strict=True)
        ]
        for place, explored in made.explored.items():
            answers[place] = told(answers[place], explored, explain=queries[place].explain)
        return answers

    def popular(self, query: Query, degraded: Sequence[str]) -> Recommendation:
        """The answer to a checked request without its user's features: popular items.

        Args:
            query: the request.
            degraded: stages that the answer is without.
        """
        started, view = time.perf_counter(), self.view
        lists = self._pipeline.popular(view, Asked.of(query, self.release, view))
        return self._answered(view, self.describe(lists)[0], degraded, started)

    def rank(self, user_id: Id, item_ids: Sequence[Id], explain: bool = False) -> Recommendation:
        """Given items in the order of one user's interest; see ``rank_all``.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        size = max(len(item_ids), 1)
        query = Query(user_id, size, candidate_items=item_ids, explain=explain)
        return self.rank_all(query)

    def rank_all(self, query: Query, run: Run | None = None) -> Recommendation:
        """All of a query's candidate items that pass its filters, best first.

        Items that the release does not know come last, without a score, in the order given.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        view = self.view
        answer = self._answer([query], view, run or Run())[0]
        ids = list(dict.fromkeys(query.candidate_items or ()))
        unknown = np.flatnonzero(rows_of(view.vocabulary, ids) == 0).tolist()
        rest = [
            Item(ids[place], None, position, GIVEN)
            for position, place in enumerate(unknown, len(answer.items) + 1)
        ]
        return replace(answer, items=[*answer.items, *rest][: query.n])

    def similar(self, item_id: Id, n: int = 10, filters: Filters = ANY) -> Recommendation:
        """The items that are nearest to one; popular ones where nothing is known of it.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        started, view, about = time.perf_counter(), self.view, self.release.about
        query = Query(check_id(item_id, about.item_id, "item_id"), n, filters=filters)
        require_length(n)
        rows, scores = similar_rows(self.release.retriever, view, item_id, n, filters)
        if not len(rows):
            return self.popular(replace(query, exclude=[item_id]), [])
        source = np.zeros((1, len(rows)), np.int64)
        lists = Lists(rows[None], scores[None], source, (ANN,))
        return self._answered(view, self.describe(lists)[0], [], started)

    def recommend_rows(
        self,
        user_rows: pa.Table,
        now_s: Ints | None = None,
        n: int = 10,
        exclude_seen: bool = False,
        *,
        exclude: Sequence[Ints] | None = None,
        filters: Filters = ANY,
        diversity: float | None = None,
    ) -> Lists:
        """The best items of B users whose features are given.

        Args:
            user_rows: ``user_id``, ``event_timestamp`` and the release's user features.
            now_s: [B] epoch seconds; by default the rows' ``event_timestamp``.
            n: length of a list.
            exclude_seen: leave out what a user is known to have bought.
            exclude: per user, item rows to leave out as well.
            filters: what the items must be.
            diversity: 0, the best scores, to 1, the least alike items; None: the release's.

        Raises:
            BadField: ``diversity`` is out of range.
            BadInput: a feature's column is missing or of a wrong type, named.
        """
        require_diversity(diversity)
        view = self.view
        asked = Asked(
            n,
            self.release.ranker_for(exclude_seen=exclude_seen),
            view.policy.with_diversity(diversity),
            filters,
            np.zeros(0, np.int64),
            exclude_seen,
        )
        every = [replace(asked, barred=barred) for barred in exclude or ()]
        every = every or [asked] * len(user_rows)
        now = query_times_s(user_rows) if now_s is None else now_s
        return self._pipeline.lists(view, user_rows, now, every, Run(strict=True)).lists

    def known(self, user_rows: pa.Table) -> Bools:
        """[B] whether a row has anything of what a user did: neither null nor an empty list."""
        return self._pipeline.known(user_rows)

    def describe(self, lists: Lists) -> list[list[Item]]:
        """The lists as items with their catalogue columns."""
        user_of, place_of = np.nonzero(lists.item_row > 0)
        rows = lists.item_row[user_of, place_of]
        scores = lists.score[user_of, place_of].astype(np.float64).round(6).tolist()
        sources = lists.source[user_of, place_of].tolist()
        ids, shown = self.ids_of(rows), self.view.catalogue.describe(rows)
        found: list[list[Item]] = [[] for _ in range(len(lists))]
        for user, item_id, score, source, columns in zip(
            user_of.tolist(), ids, scores, sources, shown, strict=True
        ):
            mine = found[user]
            worth = None if math.isnan(score) else score
            mine.append(Item(item_id, worth, len(mine) + 1, lists.sources[source], **columns))
        return found

    def ids_of(self, rows: Ints) -> list[Id]:
        """The item ids of vocabulary rows, as a list names them."""
        return self.view.vocabulary.ids_of(rows)

    def read_rows(self, user_ids: Sequence[Id]) -> pa.Table:
        """The users' features as of the release's clock; all null where nothing is known.

        Raises:
            StoreUnavailable: the online store does not answer.
        """
        return self._users.read(user_ids).table

    def warm_up(self) -> None:
        """Replay the golden users' requests, so that the first of others need not wait."""
        users = read_table(self.release.folder / "golden" / "users.parquet", ["user_id"])
        answer = None
        for user_id in users.column("user_id").to_pylist():
            for exclude_seen in (False, True):
                answer = self.recommend(user_id, exclude_seen=exclude_seen, explain=exclude_seen)
        if answer is not None:
            degraded = answer.degraded or "nothing"
            log.info("Warmed up; the last took %.0f ms, without %s.", answer.took_ms, degraded)

    def _lacking(self, query: Query, asked: Asked, lost: bool) -> list[str]:
        """What the request's answer alone does without."""
        unknown = query.scenario is not None and query.scenario not in self.release.scorers
        return [FEATURES] * lost + [SCENARIO] * unknown + [EXPERIMENT] * asked.lacking

    def _explained(
        self, view: ItemView, made: Made, user: int, items: list[Item], ranker: str, run: Run
    ) -> list[Item]:
        """One user's items with their sources and reasons."""
        item_row, _, _ = made.lists.of(user)
        found = self._explanations.of(view, made.found_for(user), item_row, ranker, run)
        return [
            replace(item, sources=own.sources, reasons=own.reasons)
            for item, own in zip(items, found, strict=True)
        ]

    def _answered(
        self, view: ItemView, items: list[Item], degraded: Sequence[str], started: float
    ) -> Recommendation:
        return Recommendation(
            recommendation_id=uuid.uuid4().hex,
            items=items,
            experiment=None,
            model_version=self.release.about.version,
            index_version=self._index_version(view),
            degraded=list(degraded),
            took_ms=round((time.perf_counter() - started) * 1000.0, 3),
        )
