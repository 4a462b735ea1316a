"""Fitting popularity: buyers of each item, decayed, by segment of users, and what is trending.

Shapes: R rows of the item vocabulary, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources.popular import PopularSource, SegmentPopularSource

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SegmentBuyers:
    """Who bought what, counted by segment; users without one count for everybody alone."""

    segments: tuple[str, ...]
    buyers_SR: npt.NDArray[np.float64]
    users_S: npt.NDArray[np.float64]
    overall_R: npt.NDArray[np.float64]
    """Share of all users who bought an item."""

    def rates(self) -> npt.NDArray[np.float64]:
        """[S, R] share of a segment's users who buy an item, each drawn towards everybody's.

        The posterior mean of a beta-binomial model whose prior mean is everybody's share. Its
        strength is estimated from the data (empirical Bayes, by moments): the less segments
        differ by more than chance, the closer they stay to everybody's.
        """
        expected = self.users_S[:, None] * self.overall_R
        noise = expected * (1 - self.overall_R)
        excess = ((self.buyers_SR - expected) ** 2 - noise).sum()
        spread = (noise * (self.users_S[:, None] - 1)).sum()
        correlation = float(np.clip(excess / spread, 0.0, 1.0)) if spread > 0 else 0.0
        if correlation == 0.0:
            return np.broadcast_to(self.overall_R, self.buyers_SR.shape)
        own = self.users_S / (self.users_S + 1 / correlation - 1)
        share = self.buyers_SR / np.maximum(self.users_S, 1)[:, None]
        found: npt.NDArray[np.float64] = self.overall_R + own[:, None] * (share - self.overall_R)
        return found


def decayed(ages: npt.NDArray[np.float64], half_life_days: float | None) -> Floats:
    """[N] weight of purchases that are so many days old; one each without a half-life."""
    if half_life_days is None:
        return np.ones(len(ages), dtype=np.float32)
    return np.exp2(-ages / half_life_days).astype(np.float32)


def popular_source(name: str, buyers: Floats, new_only: bool) -> PopularSource:
    """All items with a buyer ([R]), the most bought first."""
    rows = np.argsort(-buyers, kind="stable")
    rows = rows[buyers[rows] > 0].astype(np.int64)
    return PopularSource(name, rows, buyers[rows].astype(np.float32), new_only)


def segment_source(
    name: str, attribute: str, counted: SegmentBuyers, length: int, new_only: bool
) -> SegmentPopularSource:
    """Lists of ``length`` items: everybody's, and one for each segment."""
    rates = np.vstack([counted.overall_R, counted.rates()])
    rows = np.argsort(-rates, axis=1, kind="stable")[:, :length]
    scores = np.take_along_axis(rates, rows, axis=1)
    return SegmentPopularSource(
        name,
        attribute,
        counted.segments,
        np.where(scores > 0, rows, 0).astype(np.int64),
        scores.astype(np.float32),
        new_only,
    )


def growth(recent_R: Floats, earlier_R: Floats, shrink: float) -> Floats:
    """[R] how many times as often items are bought as they were, relative to all items.

    The posterior mean of a Poisson rate over its expectation under a gamma prior of mean 1 and
    shape ``shrink``: ``(recent + shrink) / (expected + shrink)``, so that a few buyers prove
    little. DuMouchel, "Bayesian Data Mining in Large Frequency Tables" (1999).
    """
    expected = earlier_R * (recent_R.sum() / max(float(earlier_R.sum()), 1.0))
    return np.where(recent_R > 0, (recent_R + shrink) / (expected + shrink), 0.0).astype(np.float32)


def buyers_between(
    dataset: Dataset, cutoff: datetime, items: Vocabulary, start_days: int, stop_days: int
) -> Floats:
    """[R] users who bought each item from ``start_days`` to ``stop_days`` before the cut-off."""
    query = f"""
        SELECT item_id, count(DISTINCT user_id) AS buyers FROM {_events(dataset)}
        WHERE event_type = $kind AND event_timestamp >= $since AND event_timestamp < $until
        GROUP BY item_id
    """
    times = {
        "since": cutoff - timedelta(days=start_days),
        "until": cutoff - timedelta(days=stop_days),
    }
    counted = _query(query, kind=EventType.PURCHASE.value, **times)
    found = np.zeros(items.num_rows, dtype=np.float32)
    found[items.rows(column_of(counted, "item_id"))] = np.asarray(counted.column("buyers"))
    found[0] = 0.0
    return found


def visits_between(
    dataset: Dataset, start: datetime, stop: datetime, items: Vocabulary, exponent: float
) -> Floats:
    """[R] visits that bought each item; one counts as its number of items to the -``exponent``.

    What a user buys at one time is a visit. With an exponent of 1 an item's weight is the share of
    a visit that it makes up, so that all visits count alike.
    """
    query = f"""
        WITH bought AS (
            SELECT DISTINCT user_id, event_timestamp, item_id FROM {_events(dataset)}
            WHERE event_type = $kind AND event_timestamp >= $since AND event_timestamp < $until),
        visits AS (
            SELECT user_id, event_timestamp, pow(count(*), -$exponent) AS weight
            FROM bought GROUP BY ALL)
        SELECT item_id, sum(weight) AS weight
        FROM bought JOIN visits USING (user_id, event_timestamp)
        GROUP BY item_id ORDER BY item_id
    """
    span = {"since": start, "until": stop}
    counted = _query(query, kind=EventType.PURCHASE.value, exponent=exponent, **span)
    found = np.zeros(items.num_rows, dtype=np.float32)
    found[items.rows(column_of(counted, "item_id"))] = np.asarray(counted.column("weight"))
    found[0] = 0.0
    return found


def buyers_by_segment(
    dataset: Dataset,
    cutoff: datetime,
    items: Vocabulary,
    attribute: str,
    days: int,
    half_life_days: float | None,
) -> SegmentBuyers:
    """Count the buyers of the last ``days`` by a user attribute as of the cut-off.

    Raises:
        ConfigError: there is no table of users, or it has no such attribute, or no value of it.
    """
    weight = "1.0" if half_life_days is None else f"pow(2, -age / {half_life_days})"
    query = f"""
        WITH bought AS (
            SELECT user_id, item_id,
                   min(date_diff('second', event_timestamp, $cutoff) / {DAY_S}) AS age
            FROM {_events(dataset)}
            WHERE event_type = $kind AND event_timestamp < $cutoff AND event_timestamp >= $since
            GROUP BY ALL),
        profiles AS (
            SELECT user_id, CAST({attribute} AS VARCHAR) AS segment
            FROM {_table(dataset, "users")} WHERE event_timestamp < $cutoff
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1)
        SELECT segment, item_id, sum({weight}) AS buyers
        FROM (FROM bought UNION ALL SELECT DISTINCT user_id, NULL, 0.0 FROM bought)
        LEFT JOIN profiles USING (user_id) GROUP BY ALL ORDER BY segment, item_id
    """
    _require_attribute(dataset, attribute)
    since = cutoff - timedelta(days=days)
    counted = _query(query, kind=EventType.PURCHASE.value, cutoff=cutoff, since=since)
    return _segments(counted, items, attribute)


def _segments(counted: pa.Table, items: Vocabulary, attribute: str) -> SegmentBuyers:
    """Counts by segment and item; a row without an item counts the segment's users."""
    segments = column_of(counted, "segment").dictionary_encode()
    place = np.asarray(segments.indices.fill_null(-1)).astype(np.int64)
    item_ids, buyers = column_of(counted, "item_id"), np.asarray(counted.column("buyers"))
    if not len(segments.dictionary):
        raise ConfigError(f"No user who bought of late has a value of {attribute}.")
    total = np.asarray(item_ids.is_null())
    rows = items.rows(item_ids)
    sizes = np.zeros(len(segments.dictionary) + 1)
    sizes[place[total]] = buyers[total]
    counts = np.zeros((len(sizes), items.num_rows))
    kept = ~total & (rows > 0)
    counts[place[kept], rows[kept]] = buyers[kept]
    overall = counts.sum(axis=0) / sizes.sum()
    names = tuple(str(value) for value in segments.dictionary.to_pylist())
    return SegmentBuyers(names, counts[:-1], sizes[:-1], overall)


def _require_attribute(dataset: Dataset, attribute: str) -> None:
    if not (dataset.canonical / "users.parquet").exists():
        raise ConfigError(
            f"{dataset.name} has no table of users, by whose {attribute} popular.by=segment "
            "counts; take by=overall."
        )
    with duckdb.connect() as connection:
        known = connection.sql(f"FROM {_table(dataset, 'users')} LIMIT 0").columns
    if attribute not in known or attribute in ("user_id", "event_timestamp"):
        raise ConfigError(f"Users have no attribute {attribute!r}; they have {known}.")


def _table(dataset: Dataset, name: str) -> str:
    path = str(dataset.canonical / f"{name}.parquet").replace("'", "''")
    return f"read_parquet('{path}')"


def _events(dataset: Dataset) -> str:
    return _table(dataset, "events")


def _query(query: str, **values: object) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(query, params=values).to_arrow_table()
