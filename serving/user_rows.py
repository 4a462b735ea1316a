"""The rows of features that requests are answered from: what the store knows, and anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import Rows
from feature_repo.contract.online import UserRows, arrow_type
from feature_repo.contract.schema import Entity
from serving.anchors import with_anchors
from serving.ids import Id
from serving.online import UserFeatures
from serving.query import Query
from serving.release import Release
from serving.stages import FEATURES, Run

Bools = npt.NDArray[np.bool_]


class UserReader:
    """Reads the users of requests, of which there may be any number at once."""

    def __init__(self, release: Release, online: UserFeatures) -> None:
        self._about = release.about
        self._users = release.retriever.encoder.users
        self._half_life_days = release.retriever.half_life_days
        self._features = release.schema.of(Entity.USER)
        self._online = online

    def read(self, user_ids: Sequence[Id]) -> UserRows:
        """The users' features as of the release's clock; all null where nothing is known.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return self._online.read(user_ids, self._about.now())

    def rows(self, queries: Sequence[Query], run: Run) -> tuple[Rows, Bools]:
        """[B] rows of the requests' users, with the items that they have to do with now.

        And [B] whether the store lacks a user whom the models know: it was emptied, or expired.
        """
        user_ids = [query.user_id for query in queries]

        def stored() -> tuple[Rows, Bools]:
            found = self.read(user_ids)
            return self._anchored(found.rows, queries), self._lost(found)

        def nothing() -> tuple[Rows, Bools]:
            rows = Rows(self.nobodies(user_ids))
            return self._anchored(rows, queries), np.zeros(len(queries), bool)

        return run.attempt(FEATURES, stored, nothing)

    def _anchored(self, rows: Rows, queries: Sequence[Query]) -> Rows:
        if not any(query.anchor_items for query in queries):
            return rows
        now_s = int(self._about.now().timestamp())
        table, days = rows.table, self._half_life_days
        parts = [
            with_anchors(table.slice(place, 1), query.anchor_items, now_s, days)
            for place, query in enumerate(queries)
        ]
        return Rows(pa.concat_tables(parts))

    def _lost(self, found: UserRows) -> Bools:
        lacking = ~np.asarray(found.found, dtype=np.bool_)
        if lacking.any():
            lacking &= self._users.rows(found.table.column("user_id")) > 0
        return lacking

    def nobodies(self, user_ids: Sequence[Id | None]) -> pa.Table:
        """[B] rows of users of whom nothing is known."""
        size = len(user_ids)
        columns = {feature.name: pa.nulls(size, arrow_type(feature)) for feature in self._features}
        times = pa.array([self._about.now()] * size, pa.timestamp("us", tz="UTC"))
        ids = pa.array(user_ids, self._users.ids.type)
        return pa.table({"user_id": ids, "event_timestamp": times, **columns})
