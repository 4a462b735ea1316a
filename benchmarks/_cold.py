"""Who is asked and what is right, where users or items have no past; and what answers.

Shapes: B users, R rows of the item vocabulary, N items, V width of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks._hidden import HiddenShop
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.candidates import TopK
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.schema import Entity
from feature_repo.contract.state import UserState, fold
from feature_repo.contract.tables import Tables
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.inputs import encode_users
from retrieval.sources import Source, UserBatch, best, stacked
from retrieval.towers import TwoTower, pooled_inputs
from trainer.judge import Judged
from trainer.sets import SERVICE, TARGET, TrainingSet, fit_encoder
from trainer.two_tower import FOLDER

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

TIME = pa.timestamp("us", tz="UTC")
FIRST = 5
"""Items of a new user that may become known before the rest is asked for."""
CHUNK, SCORED = 256, 64
"""Users whose lists are made, and for whom given items are scored, at once."""


@dataclass(frozen=True)
class Universe:
    """What can be recommended at a cut-off: items that were bought, and the hidden ones."""

    shop: HiddenShop
    cutoff: str
    encoder: Encoder
    """Its item vocabulary holds them all; the hidden ones have the last rows."""
    items: pa.Table
    """``item_id`` and attributes of them all."""
    num_known: int

    @staticmethod
    def at(shop: HiddenShop, cutoff: str) -> Universe:
        """The items with a past in the whole shop, of which the variant knows a part."""
        sessions = TrainingSet.open(shop.seen, SERVICE, "sessions", cutoff)
        fitted = fit_encoder(sessions, shop.seen, 1, shop.seen.history_items)
        sold = pc.unique(_events(shop.whole, None, shop.whole.edge(cutoff)).column("item_id"))
        hidden = sold.filter(pc.is_in(sold, shop.items))
        items = Vocabulary.build(hidden, shop.seen.item_id, fitted.items)
        table = read_table(shop.whole.canonical / "items.parquet")
        table = table.filter(pa.array(items.rows(table.column("item_id")) > 0))
        encoder = replace(fitted, items=items)
        return Universe(shop, cutoff, encoder, table.combine_chunks(), len(fitted.items))

    @property
    def hidden(self) -> Ints:
        """Rows of the hidden items."""
        return np.arange(self.num_known + 1, self.encoder.items.num_rows, dtype=np.int64)

    @cached_property
    def later(self) -> pa.Table:
        """``user_id, item_id, event_timestamp`` of the window's purchases, in order."""
        edges = self.shop.whole.edges
        start = self.shop.whole.edge(self.cutoff)
        bought = _events(self.shop.whole, start, edges[edges.index(start) + 1])
        order = [(name, "ascending") for name in ("user_id", "event_timestamp", "item_id")]
        return bought.sort_by(order).combine_chunks()

    def judged(self, rows: pa.Table, targets: Sequence[Sequence[Any]]) -> Judged:
        """User rows with what each should have been shown; users without any are left out."""
        lists = pa.array([list(ids) for ids in targets], pa.list_(self.encoder.items.ids.type))
        if TARGET in rows.column_names:
            rows = rows.drop_columns([TARGET])
        asked = rows.append_column(TARGET, lists).filter(pc.greater(pc.list_value_length(lists), 0))
        return Judged.of(asked.combine_chunks(), self.encoder)

    def known_users(self) -> Judged:
        """Users with a past, and the hidden items that they bought in the window."""
        found = TrainingSet.open(self.shop.seen, "ranking_v1", "users", self.cutoff)
        rows = read_table(found.folder / "users.parquet").combine_chunks()
        kept = self.later.filter(pa.array(self._rows(self.later) > self.num_known))
        bought = _items_by_user(kept)
        return self.judged(rows, [bought.get(user, ()) for user in _ids(rows)])

    def new_users(self) -> Judged:
        """Hidden users at the cut-off, and the known items that they bought in the window."""
        bought = self._first_window()
        return self.judged(self._profiles(list(bought)), list(bought.values()))

    def begun_users(self, count: int) -> Judged:
        """Hidden users after their first ``count`` items, and what they bought but the first.

        The right answers are the same for each ``count`` up to ``FIRST``.
        """
        bought = {user: ids for user, ids in self._first_window().items() if len(ids) > FIRST}
        rows = self._profiles(list(bought))
        if count:
            rows = self._with_history(rows, count)
        return self.judged(rows, [ids[FIRST:] for ids in bought.values()])

    def _rows(self, events: pa.Table) -> Ints:
        return self.encoder.items.rows(column_of(events, "item_id"))

    def _first_window(self) -> dict[Any, list[Any]]:
        """Hidden user -> distinct known items of the window, in the order of purchase."""
        hidden = pc.is_in(self.later.column("user_id"), self.shop.users)
        mine = self.later.filter(hidden)
        rows = self._rows(mine)
        return _items_by_user(mine.filter(pa.array((rows > 0) & (rows <= self.num_known))))

    def _profiles(self, users: list[Any]) -> pa.Table:
        """Rows of users of whom only the attributes are known, as of the cut-off."""
        found = TrainingSet.open(self.shop.seen, "ranking_v1", "users", self.cutoff)
        profiles = read_table(self.shop.whole.canonical / "users.parquet")
        order = {user: place for place, user in enumerate(profiles.column("user_id").to_pylist())}
        mine = profiles.take(pa.array([order[user] for user in users], pa.int64()))
        columns = {}
        for field in found.users.schema_arrow:
            known = field.name in mine.column_names
            column = mine.column(field.name) if known else pa.nulls(len(users), field.type)
            columns[field.name] = column.cast(field.type)
        just_before = self.shop.whole.edge(self.cutoff) - timedelta(microseconds=1)
        columns["event_timestamp"] = pa.array([just_before] * len(users), TIME)
        return pa.table(columns)

    def _with_history(self, rows: pa.Table, count: int) -> pa.Table:
        """The rows after each user's first distinct known items, a second later."""
        hidden = self.later.filter(pc.is_in(self.later.column("user_id"), self.shop.users))
        known = self._rows(hidden)
        hidden = hidden.filter(pa.array((known > 0) & (known <= self.num_known)))
        baskets = _first_baskets(hidden, count)
        made = [
            {**row, **_state(baskets[row["user_id"]], self.shop.seen)} for row in rows.to_pylist()
        ]
        return pa.Table.from_pylist(made, rows.schema)


def _events(dataset: Dataset, start: datetime | None, stop: datetime) -> pa.Table:
    columns = ["user_id", "item_id", "event_timestamp", "event_type"]
    events = read_table(dataset.canonical / "events.parquet", columns)
    kept = pc.and_(
        pc.equal(events.column("event_type"), "purchase"),
        pc.less(events.column("event_timestamp"), pa.scalar(stop, TIME)),
    )
    if start is not None:
        after = pc.greater_equal(events.column("event_timestamp"), pa.scalar(start, TIME))
        kept = pc.and_(kept, after)
    return events.filter(kept)


def _ids(rows: pa.Table) -> list[Any]:
    return list(rows.column("user_id").to_pylist())


def _items_by_user(events: pa.Table) -> dict[Any, list[Any]]:
    """User -> distinct items in the order of the events."""
    found: dict[Any, dict[Any, None]] = {}
    pairs = zip(_ids(events), events.column("item_id").to_pylist(), strict=True)
    for user, item in pairs:
        found.setdefault(user, {})[item] = None
    return {user: list(items) for user, items in found.items()}


def _first_baskets(events: pa.Table, count: int) -> dict[Any, dict[datetime, list[Any]]]:
    """User -> time -> the first ``count`` distinct items."""
    found: dict[Any, dict[datetime, list[Any]]] = {}
    seen: dict[Any, set[Any]] = {}
    for event in events.to_pylist():
        items = seen.setdefault(event["user_id"], set())
        if len(items) < count and event["item_id"] not in items:
            items.add(event["item_id"])
            baskets = found.setdefault(event["user_id"], {})
            baskets.setdefault(event["event_timestamp"], []).append(event["item_id"])
    return found


def _state(baskets: dict[datetime, list[Any]], dataset: Dataset) -> dict[str, Any]:
    """The features of a user's first baskets, as the jobs would compute them, but for prices."""
    state, items, sessions, last_s = UserState(), 0.0, 0.0, 0
    first_s = int(min(baskets).timestamp())
    for time in sorted(baskets):
        now_s = int(time.timestamp())
        decay = 2.0 ** (-(now_s - last_s) / 86_400 / dataset.half_life_days) if last_s else 0.0
        items = items * decay + len(baskets[time])
        sessions, last_s = sessions * decay + 1.0, now_s
        state = fold(state, baskets[time], now_s, half_life_days=dataset.half_life_days)
    row = state.to_row()
    return {
        **row,
        "event_timestamp": datetime.fromtimestamp(last_s + 1, UTC),
        "events_total": sum(map(len, baskets.values())),
        "sessions_total": len(baskets),
        "events_decayed": items,
        "sessions_decayed": sessions,
        "first_event_s": first_s,
        "last_event_s": last_s,
        "seen_item_id": row["history_item_id"],
    }


class TowerSource:
    """A trained two-tower over a universe: an item without a row has the unknown id's."""

    name = "two_tower"

    def __init__(self, run: Path, universe: Universe) -> None:
        folder = run / FOLDER
        self.encoder = Encoder.load(folder / "encoder")
        self.towers, self.tables = TwoTower.load(folder), Tables.load(folder / "tables")
        self.half_life_days = universe.shop.seen.half_life_days
        vectors = self._item_vectors(universe)
        self.item_vectors = np.zeros((universe.encoder.items.num_rows, vectors.shape[1]), "f4")
        rows = universe.encoder.items.rows(column_of(universe.items, "item_id"))
        self.item_vectors[rows] = vectors

    def _item_vectors(self, universe: Universe) -> Floats:
        just_before = universe.shop.seen.edge(universe.cutoff) - timedelta(microseconds=1)
        now = np.full(len(universe.items), int(just_before.timestamp()), dtype=np.int64)
        encoded = self.encoder.encode(universe.items, Entity.ITEM, now)
        inputs = pooled_inputs(encoded, self.tables, self.towers.config.item.features)
        with torch.inference_mode():
            found: Floats = self.towers.item_vectors(*inputs).numpy()
        return found

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"kind": "two_tower", "half_life_days": self.half_life_days}

    def user_vectors(self, users: UserBatch) -> Floats:
        """[B, V]"""
        assert users.features is not None
        encoded = encode_users(self.encoder, users.features, users.now_s, self.half_life_days)
        inputs = pooled_inputs(encoded, self.tables, self.towers.config.user.features)
        with torch.inference_mode():
            found: Floats = self.towers.user_vectors(*inputs).numpy()
        return found

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``."""
        scores = self.user_vectors(users) @ self.item_vectors.T
        lists = []
        for user, mine in enumerate(scores):
            mine[users.known(user)] = -np.inf
            mine[0] = -np.inf
            kept = np.flatnonzero(np.isfinite(mine))
            lists.append(best(kept, mine[kept], k))
        return stacked(lists, k)

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``."""
        vectors = np.repeat(self.user_vectors(users), np.diff(offsets), axis=0)
        return np.asarray((vectors * self.item_vectors[item_row]).sum(axis=1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Nothing: the run keeps the model."""


def ranked(source: Source, users: UserBatch, k: int) -> Ints:
    """[B, k] the source's best items of all."""
    return np.concatenate([source.top(part, k).item_row for part in parts_of(users, CHUNK)])


def ranked_among(source: Source, users: UserBatch, rows: Ints, k: int) -> Ints:
    """[B, k] the best of some items; those that the source says nothing of are left out."""
    lists = []
    for part in parts_of(users, SCORED):
        offsets = np.arange(len(part) + 1, dtype=np.int64) * len(rows)
        scores = source.score(part, offsets, np.tile(rows, len(part))).reshape(len(part), -1)
        for mine in scores:
            kept = np.flatnonzero(np.isfinite(mine))
            lists.append(best(rows[kept], mine[kept], k))
    return stacked(lists, k).item_row


def parts_of(users: UserBatch, size: int) -> list[UserBatch]:
    """The users, some at a time."""
    starts = range(0, len(users), size)
    return [users.part(start, min(start + size, len(users))) for start in starts]
