"""The recommender: a user's row in, a list of items out; the same code for one user and for all."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.encoding import query_times_s
from feature_repo.contract.errors import ArtifactError, StoreUnavailable
from feature_repo.contract.online import arrow_type
from feature_repo.contract.schema import Entity, Schema
from ranking.explain import Reason
from ranking.policy import Filter, Lists, Policy, seen_rows
from ranking.policy_config import PolicyConfig
from retrieval.retriever import Retriever
from serving.catalogue import Catalogue, Filters
from serving.explanation import POPULAR, Explanations
from serving.ids import BadField, Id, check_id, check_ids
from serving.online import OnlineStore, UserFeatures
from serving.release import Release

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_ITEMS = 100
"""Longest list that one request may ask for."""
ANY = Filters()
ONLY_IF_ASKED = Field(exclude_if=lambda value: value is None)
"""A field that answers have where the request asks for it."""


@dataclass(frozen=True)
class Item:
    """One recommended item, with what the catalogue knows of it."""

    item_id: int | str
    score: float | None
    """The ranker's score, higher is better, not a probability. Where nothing of the user is known
    it is the item's popularity; null for a popular item that fills up a short list."""
    position: int
    """From 1."""
    source: str
    """The candidate source that placed it best."""
    title: str | None = None
    department: str | None = None
    category: str | None = None
    subcategory: str | None = None
    brand: str | None = None
    brand_tier: str | None = None
    package_size: str | None = None
    price: float | None = None
    sources: Annotated[dict[str, int] | None, ONLY_IF_ASKED] = None
    """Source -> the item's place in its list, from 1; the best place first."""
    reasons: Annotated[list[Reason] | None, ONLY_IF_ASKED] = None
    """What raised the item most; the greatest first."""


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request."""

    recommendation_id: str
    items: list[Item]
    """Best first."""
    model_version: str
    degraded: list[str]
    """Stages that failed and were done without, such as "features"."""
    took_ms: float
    cached: bool = False


@dataclass(frozen=True)
class _PopularItems:
    """What everybody buys, best first."""

    rows: Ints
    scores: Floats


class Recommender:
    """Answers requests from one release and one online store; may be used by many threads."""

    def __init__(
        self, release: Release, online: UserFeatures, policy: PolicyConfig | None = None
    ) -> None:
        self.release = release
        self._policy = release.policy(policy)
        self._online = online
        self._items = release.retriever.encoder.items
        self._catalogue = Catalogue(release.items, self._items)
        self._nobody = _empty_row(release.schema, release)
        self._popular = _popular(release.retriever, self._nobody)
        sources = [source.name for source in release.retriever.sources]
        self._popular_source = sources.index(POPULAR)
        self._explanations = Explanations(release, self._catalogue, self._popular.rows)

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

    def recommend(
        self,
        user_id: Id,
        n: int = 10,
        exclude_seen: bool = False,
        exclude: Sequence[Id] = (),
        filters: Filters = ANY,
        diversity: float | None = None,
        explain: bool = False,
    ) -> Recommendation:
        """The best items for one user.

        Args:
            user_id: of the type that the shop's data have; an unknown user gets popular items.
            n: length of the list, 1 to 100; shorter where fewer items pass the filters.
            exclude_seen: leave out what the user is known to have bought.
            exclude: items to leave out, such as those in the basket.
            filters: what the items must be.
            diversity: 0, the best scores, to 1, the least alike items; None: the release's.
            explain: tell each item's sources and reasons, in about the time of another request.

        Raises:
            BadField: an argument is out of range or of a wrong type, named.
        """
        started = time.perf_counter()
        about = self.release.about
        user_id = check_id(user_id, about.user_id, "user_id")
        if not 1 <= n <= MAX_ITEMS:
            raise BadField("n", f"n must be from 1 to {MAX_ITEMS}; got {n}.")
        barred = self._items.rows(self._id_array(check_ids(exclude, about.item_id, "exclude")))
        rows, degraded = self._user_row(user_id, about.now())
        lists = self.recommend_rows(
            rows, None, n, exclude_seen, exclude=[barred], filters=filters, diversity=diversity
        )
        items = self.describe(lists, 0)
        if explain:
            items, failed = self._explained(items, lists, rows, barred, exclude_seen)
            degraded = [*degraded, *failed]
        return Recommendation(
            recommendation_id=uuid.uuid4().hex,
            items=items,
            model_version=about.version,
            degraded=degraded,
            took_ms=round((time.perf_counter() - started) * 1000.0, 3),
        )

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
        if diversity is not None and not 0 <= diversity <= 1:
            raise BadField("diversity", f"diversity must be from 0 to 1; got {diversity}.")
        policy = self._policy.with_diversity(diversity)
        now = query_times_s(user_rows) if now_s is None else now_s
        lists = self._empty_lists(len(user_rows), n)
        known = np.flatnonzero(self.known(user_rows))
        if len(known):
            ranked = self.release.lists(
                user_rows.take(pa.array(known)) if len(known) < len(user_rows) else user_rows,
                now[known],
                n,
                ranker=self.release.ranker_for(exclude_seen=exclude_seen),
                exclude_seen=exclude_seen,
                excluded=None if exclude is None else [exclude[user] for user in known.tolist()],
                filters=[self._filter(filters)],
                policy=policy,
            )
            lists.item_row[known] = ranked.item_row
            lists.score[known] = ranked.score
            lists.source[known] = ranked.source
        for user in np.flatnonzero((lists.item_row == 0).any(axis=1)).tolist():
            barred = [] if exclude is None else [exclude[user]]
            if exclude_seen:
                barred += seen_rows(user_rows.slice(user, 1), self._items)
            self._fill(lists, user, barred, filters, policy)
        return lists

    def known(self, user_rows: pa.Table) -> Bools:
        """[B] whether a row has any feature that is neither null nor an empty list."""
        known = np.zeros(len(user_rows), dtype=np.bool_)
        for feature in self.release.schema.of(Entity.USER):
            if known.all():
                break
            if feature.name in user_rows.column_names:
                known |= _filled(user_rows.column(feature.name))
        return known

    def describe(self, lists: Lists, user: int) -> list[Item]:
        """One user's list as items with their catalogue columns."""
        rows, scores, sources = lists.of(user)
        ids = self._items.ids_of(rows)
        shown = self._catalogue.describe(rows)
        return [
            Item(
                item_id=item_id,
                score=None if math.isnan(score) else round(float(score), 6),
                position=position,
                source=source,
                **columns,
            )
            for position, (item_id, score, source, columns) in enumerate(
                zip(ids, scores, sources, shown, strict=True), start=1
            )
        ]

    def _explained(
        self, items: list[Item], lists: Lists, user_rows: pa.Table, barred: Ints, exclude_seen: bool
    ) -> tuple[list[Item], list[str]]:
        """One user's items with their sources and reasons, and the stages that failed."""
        item_row, _, _ = lists.of(0)
        known = bool(self.known(user_rows)[0])
        found, failed = self._explanations.of(
            user_rows, item_row, known=known, barred=barred, exclude_seen=exclude_seen
        )
        explained = [
            replace(item, sources=own.sources, reasons=own.reasons)
            for item, own in zip(items, found, strict=True)
        ]
        return explained, failed

    def ids_of(self, rows: Ints) -> list[Id]:
        """The item ids of vocabulary rows, as a list names them."""
        return self._items.ids_of(rows)

    def read_rows(self, user_ids: Sequence[Id]) -> pa.Table:
        """The users' features as of the release's clock; all null where nothing is known.

        Raises:
            StoreUnavailable: the online store does not answer.
        """
        return self._online.read(user_ids, self.release.about.now()).table

    def warm_up(self) -> None:
        """Connect to the store and answer once, so that the first request need not wait."""
        user_id = self.release.user_ids()[0].as_py()
        answer = self.recommend(user_id)
        log.info(
            "Warmed up in %.0f ms; degraded: %s.", answer.took_ms, answer.degraded or "nothing"
        )

    def _user_row(self, user_id: Id, now: datetime) -> tuple[pa.Table, list[str]]:
        try:
            return self._online.read([user_id], now).table, []
        except StoreUnavailable:
            return self._nobody, ["features"]

    def _id_array(self, ids: list[Id]) -> pa.Array:
        return pa.array(ids, self._items.ids.type)

    def _filter(self, filters: Filters) -> Filter:
        def allowed(candidates: Candidates) -> Bools:
            return self._catalogue.passes(candidates.item_row, filters)

        return allowed

    def _empty_lists(self, num_users: int, n: int) -> Lists:
        shape = (num_users, n)
        return Lists(
            np.zeros(shape, np.int64),
            np.full(shape, np.nan, np.float32),
            np.full(shape, -1, np.int64),
            tuple(source.name for source in self.release.retriever.sources),
        )

    def _fill(
        self, lists: Lists, user: int, barred: Sequence[Ints], filters: Filters, policy: Policy
    ) -> None:
        """Put popular items into the places that are left of one list."""
        free = np.flatnonzero(lists.item_row[user] == 0)
        taken = np.concatenate([lists.item_row[user], *barred])
        rows = self._popular.rows
        fits = np.flatnonzero(self._catalogue.passes(rows, filters) & ~np.isin(rows, taken))
        shown = lists.item_row[user][lists.item_row[user] > 0]
        fits = fits[policy.fillers(shown, rows[fits], len(free))]
        free = free[: len(fits)]
        nothing_ranked = len(free) > 0 and free[0] == 0
        lists.item_row[user, free] = rows[fits]
        lists.score[user, free] = self._popular.scores[fits] if nothing_ranked else np.nan
        lists.source[user, free] = self._popular_source


def _empty_row(schema: Schema, release: Release) -> pa.Table:
    """The row of a user of whom nothing is known."""
    columns = {feature.name: pa.nulls(1, arrow_type(feature)) for feature in schema.of(Entity.USER)}
    ids = pa.nulls(1, release.retriever.encoder.users.ids.type)
    times = pa.array([release.about.now()], pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": ids, "event_timestamp": times, **columns})


def _filled(column: pa.ChunkedArray) -> Bools:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return np.asarray(pc.fill_null(pc.list_value_length(column), 0)) > 0
    return np.asarray(column.is_valid(), dtype=np.bool_)


def _popular(retriever: Retriever, nobody: pa.Table) -> _PopularItems:
    """Everything that the popular source names, whatever its quota.

    Raises:
        ArtifactError: the retriever has no such source.
    """
    source = next((source for source in retriever.sources if source.name == POPULAR), None)
    if source is None:
        names = [source.name for source in retriever.sources]
        raise ArtifactError(
            f"The release's retriever has the sources {names}, but serving needs {POPULAR!r} for "
            "unknown users; export a retriever with it."
        )
    top = source.top(replace(retriever.batch(nobody), excluded=None), len(retriever.encoder.items))
    named = top.item_row[0] > 0
    return _PopularItems(top.item_row[0][named], top.score[0][named])
