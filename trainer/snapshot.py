"""What the monitor compares a running shop with: the spread of training rows and of their lists."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Clock, Dataset
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.events import is_label
from feature_repo.contract.schema import Schema
from feature_repo.contract.snapshot import USUAL_DAYS, Snapshot, Spread
from feature_repo.contract.vocabulary import Vocabulary
from ranking import metrics
from ranking.policy import Lists
from trainer.sets import SERVICE, TrainingSet

log = logging.getLogger(__name__)

ROWS = 5_000
"""Training rows whose spread is kept."""
READ_ROWS = 200_000
"""Of which these are drawn, where there are more."""
VISIT_DAYS = 7
"""Visits of so many days before the cut-off are like those of a monitor's recent window: who comes
seldom is seldom among them."""
LISTS = 500
"""Of them, rows whose lists are made."""
K = 10
SEED = 0


@dataclass(frozen=True)
class Reference:
    """Training rows, each of another user, with what they are."""

    rows: pa.Table
    about: str
    earlier: pa.Table | None = None
    """Such rows of ``USUAL_DAYS`` earlier."""

    def snapshot(self, schema: Schema) -> Snapshot:
        """How their features are spread."""
        found = Snapshot.of(self.rows, schema, self.about)
        return found if self.earlier is None else found.with_usual(self.earlier, schema)


def reference_rows(dataset: Dataset, users: TrainingSet, cutoff: str) -> Reference:
    """Rows such as will be served; at most ``ROWS``.

    On the wall's clock a user is served just before a visit, so that these are rows of each user's
    last visit in the week before the cut-off, where there is a set of visits. On historical data
    "now" is the cut-off, and so are the rows.
    """
    if dataset.clock is Clock.WALL:
        try:
            visits = TrainingSet.open(dataset, SERVICE, "sessions", cutoff)
        except ArtifactError:
            log.info("There is no set of visits before %s; the snapshot is of users then.", cutoff)
        else:
            found = visits_before(visits, dataset.edge(cutoff))
            if len(found.rows):
                return found
    return Reference(_drawn(_some_rows(users)), "users at the cut-off")


def visits_before(visits: TrainingSet, end: datetime) -> Reference:
    """Rows of visits of the last week before a time, and of the week ``USUAL_DAYS`` earlier."""
    week, lag = timedelta(days=VISIT_DAYS), timedelta(days=USUAL_DAYS)
    every = _some_rows(visits, end - lag - week).sort_by("event_timestamp")
    time = pc.field("event_timestamp")
    rows = every.filter((time >= pa.scalar(end - week)) & (time < pa.scalar(end)))
    earlier = every.filter(time < pa.scalar(end - lag))
    about = f"users just before their last visit of the {VISIT_DAYS} days before the cut-off"
    if not len(earlier):
        return Reference(_drawn(_last_of_each(rows)), about)
    return Reference(_drawn(_last_of_each(rows)), about, _drawn(_last_of_each(earlier)))


def _some_rows(found: TrainingSet, since: datetime | None = None) -> pa.Table:
    """Rows from a time on, without labels, of row groups in random order until there are enough."""
    names = [name for name in found.users.schema_arrow.names if not is_label(name)]
    parts: list[pa.Table] = [found.users.schema_arrow.empty_table().select(names)]
    for group in np.random.default_rng(SEED).permutation(len(found.group_sizes())).tolist():
        rows = found.read_group(group, names)
        if since is not None:
            rows = rows.filter(pc.field("event_timestamp") >= pa.scalar(since))
        parts.append(rows)
        if sum(map(len, parts)) >= READ_ROWS:
            break
    return pa.concat_tables(parts)


def _last_of_each(rows: pa.Table) -> pa.Table:
    """Of rows in the order of time, each user's last one."""
    codes = np.asarray(column_of(rows, "user_id").dictionary_encode().indices)
    _, first = np.unique(codes[::-1], return_index=True)
    return rows.take(pa.array(np.sort(len(codes) - 1 - first)))


def _drawn(rows: pa.Table) -> pa.Table:
    if len(rows) <= ROWS:
        return rows
    chosen = np.random.default_rng(SEED).choice(len(rows), ROWS, replace=False)
    return rows.take(pa.array(np.sort(chosen)))


def with_lists(
    snapshot: Snapshot, lists: Lists, items: pa.Table, vocabulary: Vocabulary, num_users: int
) -> Snapshot:
    """A snapshot that knows what lists are like: scores of first places, novelty and coverage.

    Args:
        snapshot: of the features.
        lists: of some of its rows, by the default ranker alone.
        items: the release's.
        vocabulary: whose rows the lists hold.
        num_users: of the release.
    """
    about = {"lists": float(len(lists)), "k": float(lists.item_row.shape[1])}
    about["coverage"] = metrics.catalogue_coverage(lists.item_row, max(len(vocabulary), 1))
    if "buyers_total" in items.column_names:
        buyers = np.zeros(vocabulary.num_rows, np.int64)
        rows = vocabulary.rows(column_of(items, "item_id"))
        buyers[rows] = np.asarray(column_of(items, "buyers_total").fill_null(0))
        bits = metrics.novelty(lists.item_row, np.minimum(buyers, num_users), num_users)
        about["novelty"] = float(np.nanmean(bits))
    first = lists.score[:, 0].astype(np.float64)
    return replace(snapshot, scores=Spread.of_numbers("score", first), lists=about)
