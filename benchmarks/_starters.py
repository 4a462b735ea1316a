"""The list of nobody against popular in many windows before the test, with every user as a new one.

A release's newcomers are few, and one window's difference of two lists is noise; a list takes no
training, so that it can be judged on all users of many windows. A user's own past counts among
everybody's here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.vocabulary import Vocabulary
from ranking.metrics import Relevant, bootstrap, hit_rate_at_k
from trainer.popular import buyers_between, visits_between
from trainer.source_config import PopularConfig, StartersConfig

TIME = pa.timestamp("us", tz="UTC")
LENGTH = timedelta(days=28)


def list_rows(dataset: Dataset, first: datetime, windows: int, k: int) -> Iterator[dict[str, Any]]:
    """One row a window: share of users with a hit at ``k`` on their first visit.

    Args:
        dataset: a shop.
        first: start of the latest window; the others lie before it, four weeks each.
        windows: how many.
        k: length of the lists.
    """
    columns = ["user_id", "item_id", "event_timestamp", "event_type"]
    events = read_table(dataset.canonical / "events.parquet", columns)
    events = events.filter(pc.equal(events.column("event_type"), "purchase"))
    items = Vocabulary.build(pc.unique(events.column("item_id")), dataset.item_id)
    popular, starters = PopularConfig(), StartersConfig()
    span = timedelta(days=starters.days)
    for number in range(windows):
        cutoff = first - number * LENGTH
        buyers = buyers_between(dataset, cutoff, items, popular.days, 0)
        visits = visits_between(dataset, cutoff - span, cutoff, items, starters.exponent)
        relevant = Relevant.of(_first_visits(events, cutoff, items))
        hits = [hit_rate_at_k(_tiled(one, relevant, k), relevant, k) for one in (visits, buyers)]
        difference = bootstrap(hits[0] - hits[1], seed=0)
        yield {
            "window": f"{cutoff:%Y-%m-%d}",
            "users": len(relevant.counts),
            "starters": float(hits[0].mean()),
            "popular": float(hits[1].mean()),
            "difference": difference.mean,
            "from": difference.low,
            "to": difference.high,
        }


def _tiled(weights_R: npt.NDArray[np.float32], relevant: Relevant, k: int) -> npt.NDArray[np.int64]:
    """[B, k] the heaviest items, the same for everybody."""
    head = np.argsort(-weights_R, kind="stable")[:k].astype(np.int64)
    return np.tile(np.where(weights_R[head] > 0, head, 0), (len(relevant.counts), 1))


def _first_visits(
    events: pa.Table, start: datetime, items: Vocabulary
) -> list[npt.NDArray[np.int64]]:
    """User by user, the items of the first visit of the window from ``start`` on."""
    times = events.column("event_timestamp")
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(start, TIME)),
        pc.less(times, pa.scalar(start + LENGTH, TIME)),
    )
    mine = events.filter(inside)
    first = mine.group_by("user_id").aggregate([("event_timestamp", "min")])
    mine = mine.join(first, "user_id")
    at_first = pc.equal(mine.column("event_timestamp"), mine.column("event_timestamp_min"))
    mine = mine.filter(at_first).sort_by("user_id").combine_chunks()
    rows = items.rows(mine.column("item_id").combine_chunks())
    users = np.asarray(mine.column("user_id").combine_chunks())
    return np.split(rows, np.flatnonzero(users[1:] != users[:-1]) + 1)
