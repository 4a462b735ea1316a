"""Shoppers in their first session: what they buy, what they would say they like, and their rows.

Their households are hidden from everything that was fitted (``benchmarks._hidden``). What they
bought before the cut-off is read for one thing alone: the categories that a shopper names when
asked. A session takes place at the moment of the release's clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._hidden import HiddenShop
from feature_repo.contract import columns
from feature_repo.contract.activity import Basket, advance
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.online import UserRows, arrow_type
from feature_repo.contract.schema import Entity, Schema
from feature_repo.contract.state import UserState, fold
from feature_repo.contract.vocabulary import Vocabulary, id_arrow_type

TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Newcomer:
    """One shopper of whom the shop knows nothing."""

    user_id: int
    session: tuple[int, ...]
    """Distinct items of the first visit of the window, in an order drawn at random: the data
    have none within a visit."""
    prices: tuple[float, ...]
    """What was paid for each, missing prices as 0."""
    later: frozenset[int]
    """Items of the later visits of the window."""
    named: tuple[str, ...]
    """Categories of most visits before the cut-off, the most first."""
    bought_from: tuple[str, ...]
    """Categories of most items of the session, the most first: nobody can know them before."""
    profile: Mapping[str, Any]
    """Attributes; empty where the shop has none."""

    def row(self, count: int, now_s: int, dataset: Dataset) -> dict[str, Any]:
        """Features after ``count`` items of the session, bought a second before ``now_s``."""
        if not count:
            return {}
        items, time_s = self.session[:count], now_s - 1
        state = fold(
            UserState(),
            items,
            time_s,
            history_items=dataset.history_items,
            half_life_days=dataset.half_life_days,
        )
        basket = Basket(time_s, len(items), sum(self.prices[:count]))
        activity = advance(None, basket, dataset.half_life_days)
        return {**state.to_row(), **activity.to_row(), "seen_item_id": sorted(items)}


def newcomers(
    shop: HiddenShop, cutoff: str, items: Vocabulary, *, names: int, seed: int
) -> list[Newcomer]:
    """The hidden users who buy something known in the window after the cut-off.

    Args:
        shop: what is hidden.
        cutoff: ``t1`` or ``t2``; the window reaches to the next edge.
        items: what the release knows.
        names: most categories that a shopper names.
        seed: of the order within a visit.
    """
    whole = shop.whole
    start = whole.edge(cutoff)
    stop = whole.edges[whole.edges.index(start) + 1]
    categories = _categories(whole)
    hidden = _purchases(whole, shop.users)
    times = hidden.column("event_timestamp")
    before = hidden.filter(pc.less(times, pa.scalar(start, TIME)))
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(start, TIME)), pc.less(times, pa.scalar(stop, TIME))
    )
    known = pa.array(items.rows(hidden.column("item_id").combine_chunks()) > 0)
    visits = _visits(hidden.filter(pc.and_(inside, known)))
    named = {
        user: most_visited(mine.values(), categories, names)
        for user, mine in _visits(before).items()
    }
    profiles = _profiles(whole, start)
    return [
        _newcomer(user, mine, categories, names, named.get(user, ()), profiles.get(user, {}), seed)
        for user, mine in sorted(visits.items())
    ]


Visits = dict[datetime, dict[int, float]]
"""Time of a visit, rising -> item -> what was paid."""


def _newcomer(
    user: int,
    visits: Visits,
    categories: Mapping[int, str],
    names: int,
    named: tuple[str, ...],
    profile: Mapping[str, Any],
    seed: int,
) -> Newcomer:
    first, *rest = visits.values()
    ids = np.array(sorted(first), dtype=np.int64)
    order = np.random.default_rng([seed, user]).permutation(ids).tolist()
    counts = Counter(categories[item] for item in order if item in categories)
    return Newcomer(
        user_id=user,
        session=tuple(order),
        prices=tuple(first[item] for item in order),
        later=frozenset(item for visit in rest for item in visit),
        named=named,
        bought_from=_most(counts, names),
        profile=profile,
    )


def most_visited(
    visits: Sequence[Mapping[int, float]] | Any, categories: Mapping[int, str], names: int
) -> tuple[str, ...]:
    """The categories that most visits have something of, the most first."""
    counts: Counter[str] = Counter()
    for visit in visits:
        counts.update({categories[item] for item in visit if item in categories})
    return _most(counts, names)


def _most(counts: Counter[str], names: int) -> tuple[str, ...]:
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(order[:names])


def _purchases(whole: Dataset, users: pa.Array) -> pa.Table:
    columns = ["user_id", "item_id", "event_timestamp", "event_type", "price"]
    events = read_table(whole.canonical / "events.parquet", columns)
    bought = pc.equal(events.column("event_type"), "purchase")
    mine = events.filter(pc.and_(bought, pc.is_in(events.column("user_id"), users)))
    order = [("user_id", "ascending"), ("event_timestamp", "ascending")]
    return mine.sort_by(order).combine_chunks()


def _visits(events: pa.Table) -> dict[int, Visits]:
    found: dict[int, Visits] = defaultdict(dict)
    for event in events.select(["user_id", "item_id", "event_timestamp", "price"]).to_pylist():
        visit = found[event["user_id"]].setdefault(event["event_timestamp"], {})
        visit[event["item_id"]] = visit.get(event["item_id"], 0.0) + (event["price"] or 0.0)
    return dict(found)


def _categories(whole: Dataset) -> dict[int, str]:
    """Item -> its latest category, of those that have one."""
    columns = ["item_id", "event_timestamp", "category"]
    items = read_table(whole.canonical / "items.parquet", columns).sort_by("event_timestamp")
    return {
        row["item_id"]: row["category"] for row in items.to_pylist() if row["category"] is not None
    }


def _profiles(whole: Dataset, before: datetime) -> dict[int, dict[str, Any]]:
    """User -> the attributes that are known before a time."""
    users = read_table(whole.canonical / "users.parquet").sort_by("event_timestamp")
    users = users.filter(pc.less(users.column("event_timestamp"), pa.scalar(before, TIME)))
    found = {}
    for row in users.drop_columns(["event_timestamp"]).to_pylist():
        user = row.pop("user_id")
        found[user] = {name: value for name, value in row.items() if value is not None}
    return found


@dataclass
class Rows:
    """An online store in memory (``serving.online.UserFeatures``)."""

    schema: Schema
    dataset: Dataset
    rows: dict[int | str, Mapping[str, Any]] = field(default_factory=dict)
    """User -> what is known of it."""

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """See ``UserFeatures``."""
        rows = [self.rows.get(user, {}) for user in user_ids]
        features = {
            feature.name: pa.array([row.get(feature.name) for row in rows], arrow_type(feature))
            for feature in self.schema.of(Entity.USER)
        }
        ids = pa.array(user_ids, id_arrow_type(self.dataset.user_id))
        times = pa.array([now] * len(rows), TIME)
        table = pa.table({"user_id": ids, "event_timestamp": times, **features})
        return UserRows(columns.Rows(table), [bool(row) for row in rows])
