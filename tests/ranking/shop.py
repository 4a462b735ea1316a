"""A shop of a few users and items, made up in memory, and candidates for its users."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from feature_repo.contract.candidates import Candidates, TopK, merge
from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.schema import Derive, Encoding, Entity, Feature, Schema
from feature_repo.contract.state import DAY_S, Histories
from feature_repo.contract.vocabulary import Vocabulary

NUM_USERS, NUM_ITEMS = 24, 40
NOW_S = 1_600_000_000
NOW = datetime.fromtimestamp(NOW_S, UTC)
SOURCES = ("buy_again", "popular")
GROUPS = {"department": 3, "category": 5, "subcategory": 8, "brand": 6}


def _feature(
    name: str, entity: Entity, encoding: Encoding, buckets: int = 0, derive: Derive | None = None
) -> Feature:
    return Feature(name, entity, entity.value, "", encoding, buckets, derive)


USER, ITEM = Entity.USER, Entity.ITEM
SCHEMA = Schema(
    "ranking_v1",
    (
        _feature("segment", USER, Encoding.CATEGORICAL, 8),
        _feature("sessions_decayed", USER, Encoding.NUMERIC, 8),
        _feature("last_event_s", USER, Encoding.NUMERIC, 8, Derive.DAYS_SINCE),
        Feature(
            "history_item_id",
            USER,
            "user",
            "",
            Encoding.BAG,
            bag_of="item_id",
            bag_weight="history_weight",
        ),
        *(_feature(name, ITEM, Encoding.CATEGORICAL, 16) for name in GROUPS),
        _feature("price", ITEM, Encoding.NUMERIC, 8),
        _feature("buyers_28d", ITEM, Encoding.NUMERIC, 8),
        _feature("gap_usual", ITEM, Encoding.NUMERIC, 8),
    ),
)


def item_rows(num_items: int = NUM_ITEMS) -> pa.Table:
    """Items 100, 101, ...; the last one has no attributes."""
    random = np.random.default_rng(1)
    groups = {
        name: [*(f"{name}{code}" for code in random.integers(0, size, num_items - 1)), None]
        for name, size in GROUPS.items()
    }
    return pa.table(
        {
            "item_id": np.arange(100, 100 + num_items),
            "event_timestamp": pa.array([NOW] * num_items, pa.timestamp("us", tz="UTC")),
            **groups,
            "price": [*random.gamma(2.0, 2.0, num_items - 1).astype(np.float32), None],
            "buyers_28d": random.integers(0, 50, num_items),
            "gap_usual": np.linspace(3.0, 30.0, num_items),
        }
    )


def user_rows(num_users: int = NUM_USERS) -> pa.Table:
    """Users 1, 2, ... with histories of up to ten items; the first has none."""
    random = np.random.default_rng(2)
    rows = [
        _user(random, 0 if user == 0 else int(random.integers(1, 11))) for user in range(num_users)
    ]
    lists = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
    lists["history_weight"] = lists["history_weight"].cast(pa.list_(pa.float32()))
    return pa.table(
        {
            "user_id": np.arange(1, 1 + num_users),
            "event_timestamp": pa.array([NOW] * num_users, pa.timestamp("us", tz="UTC")),
            "segment": [None if user % 5 == 0 else f"s{user % 3}" for user in range(num_users)],
            "sessions_decayed": random.gamma(2.0, 2.0, num_users).astype(np.float32),
            "last_event_s": NOW_S - random.integers(1, 40, num_users) * int(DAY_S),
            **lists,
            "target_item_id": pa.array(
                [random.choice(NUM_ITEMS, 3, replace=False) + 100 for _ in range(num_users)]
            ),
        }
    )


def _user(random: np.random.Generator, size: int) -> dict[str, list[float]]:
    count = random.integers(1, 6, size)
    last_s = NOW_S - np.sort(random.integers(1, 80, size)) * int(DAY_S)
    span = np.where(count > 1, random.integers(10, 90, size), 0)
    return {
        "history_item_id": (random.choice(NUM_ITEMS, size, replace=False) + 100).tolist(),
        "history_count": count.tolist(),
        "history_weight": (count * random.uniform(0.3, 1.0, size)).tolist(),
        "history_first_s": (last_s - span * int(DAY_S)).tolist(),
        "history_last_s": last_s.tolist(),
        "history_gap_last": (span.astype(np.float64) * 0.5).tolist(),
        "history_gap_sq": (span.astype(np.float64) ** 2 * 1.5).tolist(),
    }


def vocabulary(num_items: int = NUM_ITEMS) -> Vocabulary:
    """That the candidates are named in: the shop's items."""
    return Vocabulary.build(pa.array(np.arange(100, 100 + num_items)), IdType.INT64)


def encoder() -> Encoder:
    """A ranker's encoder, which does not know the shop's last ten items."""
    users = Vocabulary.build(pa.array(np.arange(1, 1 + NUM_USERS)), IdType.INT64)
    return Encoder.fit(
        SCHEMA, users, vocabulary(NUM_ITEMS - 10), user_rows(), item_rows(), history_length=5
    )


def candidates(rows: pa.Table, k: int = 12) -> Candidates:
    """What the users bought, and the same popular items for all."""
    histories = Histories.from_table(rows, vocabulary())
    own = np.zeros((len(rows), k), dtype=np.int64)
    for user in range(len(rows)):
        mine = histories.of(user).item_row[:k]
        own[user, : len(mine)] = mine
    popular = np.tile(np.arange(1, k + 1), (len(rows), 1))
    lists = {
        name: TopK(items, np.where(items > 0, -np.arange(k), np.nan).astype(np.float32))
        for name, items in zip(SOURCES, (own, popular), strict=True)
    }
    return merge(lists)
