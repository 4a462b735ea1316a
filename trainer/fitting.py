"""Fitting candidate sources on all purchases before a cut-off.

``fit_source`` is what ``python -m trainer model=ease`` and ``python -m trainer.sources`` share.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.sources import FactorSource, NeighbourSource, PopularSource, Source
from trainer.content import fit_content
from trainer.ease import fit_ease
from trainer.factor_config import IalsConfig
from trainer.graph_filter import fit_graph_filter
from trainer.graph_filter_config import GraphFilterConfig
from trainer.ials import fit_ials
from trainer.neighbours import Purchases, fit_groups, fit_knn
from trainer.popular import (
    buyers_between,
    buyers_by_segment,
    decayed,
    growth,
    popular_source,
    segment_source,
    visits_between,
)
from trainer.similar_users import fit_similar_users
from trainer.source_config import (
    By,
    ContentConfig,
    EaseConfig,
    FittedModelConfig,
    GroupConfig,
    KnnConfig,
    PopularConfig,
    SimilarUsersConfig,
    StartersConfig,
    TrendingConfig,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def events_before(dataset: Dataset, cutoff: datetime) -> pa.Table:
    """``user_id, item_id, weight, first, recent``: one row a user and item, before the cut-off.

    ``weight`` is the decayed count at the cut-off, ``first`` and ``last`` are days before it.
    """
    query = f"""
        SELECT user_id, item_id,
               sum(pow(2, -age / {dataset.half_life_days})) AS weight,
               max(age) AS first_days, min(age) AS last_days
        FROM (
            SELECT user_id, item_id,
                   date_diff('second', event_timestamp, $cutoff) / {DAY_S} AS age
            FROM read_parquet($events)
            WHERE event_type = $kind AND event_timestamp < $cutoff
        )
        GROUP BY ALL ORDER BY user_id, item_id
    """
    values = {
        "cutoff": cutoff,
        "events": str(dataset.canonical / "events.parquet"),
        "kind": EventType.PURCHASE.value,
    }
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(query, params=values).to_arrow_table()


@dataclass(frozen=True)
class Fitting:
    """What sources are fitted on: the purchases of known items before a cut-off."""

    purchases: Purchases
    first_days: npt.NDArray[np.float64]
    """[N] days between a user's first purchase of an item and the cut-off."""
    last_days: npt.NDArray[np.float64]
    """[N] days since the last one."""
    items: pa.Table
    """``item_id`` and attributes."""
    user_row: Ints
    """[N] rows of the user vocabulary; 0 is a user that it does not know."""
    vocabulary: Vocabulary
    """Of the items."""
    num_users: int
    """Rows of the user vocabulary."""
    half_life_days: float
    dataset: Dataset
    cutoff: datetime
    new_only: bool = True
    """Whether the sources name only items outside of a user's history."""

    @staticmethod
    def before(
        dataset: Dataset,
        cutoff: datetime,
        items: pa.Table,
        encoder: Encoder,
        new_only: bool = True,
    ) -> Fitting:
        """The purchases of a data set before a cut-off."""
        events = events_before(dataset, cutoff)
        rows = encoder.items.rows(events.column("item_id"))
        known = rows > 0
        users = np.asarray(column_of(events, "user_id").dictionary_encode().indices)
        purchases = Purchases(
            users[known].astype(np.int64),
            rows[known],
            np.asarray(events.column("weight"), dtype=np.float32)[known],
            int(users.max(initial=-1)) + 1,
            encoder.items.num_rows,
        )
        first, last = (np.asarray(events.column(f"{name}_days")) for name in ("first", "last"))
        return Fitting(
            purchases,
            first[known],
            last[known],
            items,
            encoder.users.rows(events.column("user_id"))[known],
            encoder.items,
            encoder.users.num_rows,
            dataset.half_life_days,
            dataset,
            cutoff,
            new_only,
        )

    def by_user(self) -> sp.csr_matrix:
        """[U, R] decayed counts by rows of the vocabularies; unknown users are left out."""
        known = self.user_row > 0
        places = self.user_row[known], self.purchases.item_row[known]
        shape = (self.num_users, self.vocabulary.num_rows)
        return sp.csr_matrix((self.purchases.weight[known], places), shape=shape)

    def buyers_within(
        self,
        days: int,
        ages: npt.NDArray[np.float64],
        half_life_days: float | None = None,
    ) -> Floats:
        """[R] users whose first or last purchase (by ``ages``) lies within some days, decayed."""
        kept = ages <= days
        weights = decayed(ages[kept], half_life_days)
        rows = self.purchases.item_row[kept]
        counted = np.bincount(rows, weights, minlength=self.purchases.num_rows)
        return counted.astype(np.float32)


def fit_source(name: str, config: FittedModelConfig, fitting: Fitting) -> Source:
    """Fit the model that ``config`` describes.

    Raises:
        ConfigError: a setting does not suit the data.
        BadInput: the model cannot be fitted on these purchases.
    """
    match config:
        case EaseConfig():
            table = fit_ease(
                fitting.purchases,
                config.transform,
                config.items,
                config.l2,
                config.neighbours,
                config.user_exponent,
                config.item_exponent,
            )
            return _neighbours(name, table, config, fitting)
        case KnnConfig():
            table = fit_knn(
                fitting.purchases,
                config.transform,
                config.shrink,
                config.neighbours,
                config.asymmetry,
                config.user_exponent,
            )
            return _neighbours(name, table, config, fitting)
        case GraphFilterConfig():
            table = fit_graph_filter(fitting.purchases, config)
            return _neighbours(name, table, config, fitting)
        case GroupConfig():
            return _neighbours(name, _groups(config, fitting), config, fitting)
        case PopularConfig():
            return _popular(name, config, fitting)
        case StartersConfig():
            span = fitting.cutoff - timedelta(days=config.days), fitting.cutoff
            weights = visits_between(fitting.dataset, *span, fitting.vocabulary, config.exponent)
            return popular_source(name, weights, new_only=False)
        case TrendingConfig():
            return _trending(name, config, fitting)
        case SimilarUsersConfig():
            purchases, half_life_days = fitting.purchases, fitting.half_life_days
            return fit_similar_users(name, purchases, config, half_life_days, fitting.new_only)
        case ContentConfig():
            return _content(name, config, fitting)
        case IalsConfig():
            return FactorSource(name, *fit_ials(fitting.by_user(), config), fitting.new_only)
        case _:
            raise TypeError(f"No source is fitted from {type(config).__name__}.")


def _neighbours(
    name: str,
    table: tuple[npt.NDArray[np.int32], Floats],
    config: EaseConfig | KnnConfig | GraphFilterConfig | GroupConfig,
    fitting: Fitting,
) -> NeighbourSource:
    return NeighbourSource(name, *table, config.transform, fitting.half_life_days, fitting.new_only)


def _groups(config: GroupConfig, fitting: Fitting) -> tuple[npt.NDArray[np.int32], Floats]:
    codes = group_codes(fitting.items, config.groups, fitting.vocabulary)
    buyers = fitting.buyers_within(config.days, fitting.last_days)
    return fit_groups(codes, buyers, config.neighbours)


def _popular(name: str, config: PopularConfig, fitting: Fitting) -> Source:
    if config.by is By.segment:
        counted = buyers_by_segment(
            fitting.dataset,
            fitting.cutoff,
            fitting.vocabulary,
            config.segment,
            config.days,
            config.half_life_days,
        )
        return segment_source(name, config.segment, counted, config.items, fitting.new_only)
    ages = fitting.first_days if config.first_time else fitting.last_days
    buyers = fitting.buyers_within(config.days, ages, config.half_life_days)
    if config.by is By.overall:
        return popular_source(name, buyers, fitting.new_only)
    groups = GroupConfig([config.category])
    codes = group_codes(fitting.items, groups.groups, fitting.vocabulary)
    return _neighbours(name, fit_groups(codes, buyers, groups.neighbours), groups, fitting)


def _trending(name: str, config: TrendingConfig, fitting: Fitting) -> PopularSource:
    spans = (config.days, 0), (config.days + config.earlier_days, config.days)
    recent, earlier = (
        buyers_between(fitting.dataset, fitting.cutoff, fitting.vocabulary, *span) for span in spans
    )
    return popular_source(name, growth(recent, earlier, config.shrink), fitting.new_only)


def _content(name: str, config: ContentConfig, fitting: Fitting) -> Source:
    return fit_content(
        name,
        fitting.purchases,
        fitting.items,
        fitting.vocabulary,
        config,
        fitting.half_life_days,
        fitting.new_only,
    )


def group_codes(
    items: pa.Table, groups: list[str], vocabulary: Vocabulary
) -> npt.NDArray[np.int64]:
    """[R] one code for each combination of the attributes; 0 where one of them is missing.

    Raises:
        ConfigError: the items have no attribute of that name.
    """
    unknown = sorted(set(groups) - set(items.column_names))
    if unknown:
        raise ConfigError(f"Items have no attribute {unknown}; they have {items.column_names}.")
    codes = np.zeros(len(items), dtype=np.int64)
    missing = np.zeros(len(items), dtype=np.bool_)
    for group in groups:
        column = column_of(items, group).cast(pa.string()).dictionary_encode()
        own = np.asarray(column.indices.fill_null(-1)).astype(np.int64)
        missing |= own < 0
        codes = codes * (len(column.dictionary) + 1) + own + 1
    _, dense = np.unique(np.where(missing, -1, codes), return_inverse=True)
    found = np.zeros(vocabulary.num_rows, dtype=np.int64)
    rows = vocabulary.rows(column_of(items, "item_id"))
    found[rows] = np.where(missing, 0, dense + 1)
    found[0] = 0
    return found
