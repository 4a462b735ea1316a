"""Job ``skew``: whether the features that were served are those that models are trained on.

Served rows come from a log (``feature_repo.contract.served_rows``), or are read from the online
store now, for the users of a file such as ``serving.batch`` writes. For the same users and times
Feast's point-in-time join is asked, a microsecond earlier as for training sets, and both are
compared feature by feature.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.table import Table

from feature_repo.contract import embedded
from feature_repo.contract.artifacts import read_table
from feature_repo.contract.dataset import Clock, Dataset
from feature_repo.contract.errors import BadInput
from feature_repo.contract.online import OnlineReader
from feature_repo.contract.schema import Entity, Feature, Schema
from feature_repo.contract.served_rows import read_served_rows, served_columns, write_served_rows
from feature_repo.contract.vocabulary import id_arrow_type
from feature_repo.jobs import feast_repo
from feature_repo.jobs.config import SkewConfig
from feature_repo.jobs.database import connect, name, row
from feature_repo.jobs.training_set import BEFORE

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger(__name__)

KEYS = ["user_id", "event_timestamp"]


@dataclass(frozen=True)
class Mismatch:
    """One feature, served and joined."""

    feature: str
    rows: int
    differing: int
    not_served: int
    """Of the differing rows, those with a value in the join alone."""
    only_served: int
    """Of the differing rows, those with a value served alone."""
    example: tuple[Any, Any, Any] | None
    """A user, what was served, and what the join says."""

    @property
    def share(self) -> float:
        """Of the rows, those that differ."""
        return self.differing / self.rows


def find_skew(config: SkewConfig, now: datetime) -> list[Mismatch]:
    """Compare served rows with the join; one result a feature, the worst first.

    Raises:
        BadInput: neither or both of ``rows`` and ``users`` are given, or there is no row.
        ArtifactError: a file is not whole, or holds rows of other features.
        StoreUnavailable: the online store does not answer.
    """
    dataset = config.data.dataset()
    store = feast_repo.open_store(dataset)
    schema = feast_repo.schema_of(store, feast_repo.find_service(store, config.service))
    served = _sampled(_served(config, dataset, schema, now), config.sample)
    if not len(served):
        raise BadInput("There are no served rows to compare.")
    with (
        connect(config, dataset.root) as connection,
        feast_repo.duckdb_backend(config, dataset.root),
    ):
        joined = _joined(store, served, schema)
        found = [_compare(connection, served, joined, f) for f in schema.of(Entity.USER)]
    return sorted(found, key=lambda mismatch: -mismatch.share)


def _served(config: SkewConfig, dataset: Dataset, schema: Schema, now: datetime) -> pa.Table:
    if (config.rows is None) == (config.users is None):
        raise BadInput("Give rows=FILE, a log of served rows, or users=FILE, users to read now.")
    if config.rows is not None:
        return read_served_rows(Path(config.rows), schema, dataset.user_id)
    assert config.users is not None
    ids = pc.unique(read_table(Path(config.users), ["user_id"]).column("user_id"))
    reader = OnlineReader(embedded.connect(timeout_s=30.0), dataset.name, schema, dataset.user_id)
    chosen = ids.cast(id_arrow_type(dataset.user_id))[: config.sample].to_pylist()
    rows = reader.read(chosen, _clock(config, dataset, now)).table
    if config.out is not None:
        write_served_rows(Path(config.out), rows, schema, dataset.user_id)
    return rows.cast(served_columns(schema, dataset.user_id))


def _clock(config: SkewConfig, dataset: Dataset, now: datetime) -> datetime:
    if config.now is not None:
        return dataset.edge(config.now)
    return now if dataset.clock is Clock.WALL else dataset.edges[2]


def _sampled(rows: pa.Table, count: int) -> pa.Table:
    """At most so many rows, spread over the file; none of a user and time twice."""
    once = (
        rows.append_column("place", pa.array(range(len(rows))))
        .group_by(KEYS)
        .aggregate([("place", "min")])
    )
    places = once.column("place_min").combine_chunks().sort()
    step = max(1, -(-len(places) // count))
    return rows.take(places[::step]).sort_by([(key, "ascending") for key in KEYS])


def _joined(store: FeatureStore, served: pa.Table, schema: Schema) -> pa.Table:
    """Feast's rows for the same users, just before the same times, in the same order."""
    frame = served.select(KEYS).to_pandas()
    frame["event_timestamp"] -= BEFORE
    references = feast_repo.references(schema, Entity.USER)
    found = store.get_historical_features(entity_df=frame, features=references).to_arrow()
    found = found.sort_by([(key, "ascending") for key in KEYS])
    if not found.column("user_id").equals(served.column("user_id")):
        raise BadInput("Feast returned other rows than it was asked for; please report this.")
    types = {field.name: field.type for field in served.schema}
    return pa.table(
        {f.name: found.column(f.name).cast(types[f.name]) for f in schema.of(Entity.USER)}
    )


def _compare(
    connection: duckdb.DuckDBPyConnection, served: pa.Table, joined: pa.Table, feature: Feature
) -> Mismatch:
    both = pa.table(
        {
            "user_id": served.column("user_id"),
            "served": served.column(feature.name),
            "joined": joined.column(feature.name),
        }
    )
    connection.register("both_rows", both)
    kept = {side: _kept(side, both.schema.field(side).type) for side in ("served", "joined")}
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE differing AS SELECT user_id, {kept['served']} AS served, "
        f"{kept['joined']} AS joined FROM both_rows "
        f"WHERE {kept['served']} IS DISTINCT FROM {kept['joined']}"
    )
    differing, not_served, only_served = row(
        connection,
        "SELECT count(*), count(*) FILTER (served IS NULL), count(*) FILTER (joined IS NULL) "
        "FROM differing",
    )
    example = connection.execute("FROM differing ORDER BY user_id LIMIT 1").fetchone()
    return Mismatch(feature.name, len(both), differing, not_served, only_served, example)


def _kept(side: str, kind: pa.DataType) -> str:
    """The column as SQL; an empty list and a NaN are no value, as in the store."""
    column = name(side)
    if pa.types.is_list(kind):
        return f"CASE WHEN len({column}) > 0 THEN {column} END"
    if pa.types.is_floating(kind):
        return f"CASE WHEN NOT isnan({column}) THEN {column} END"
    return column


def render(found: Sequence[Mismatch]) -> Table:
    """The results as a table."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"Served and joined features of {found[0].rows:,} rows"
    )
    table.add_column("feature", no_wrap=True)
    for head in ("differ", "share", "not served", "only served"):
        table.add_column(head, justify="right")
    table.add_column("user: served / joined")
    for one in found:
        counts = (one.differing, one.not_served, one.only_served)
        differ, not_served, only_served = (f"{count:,}" for count in counts)
        example = "{}: {} / {}".format(*map(_short, one.example)) if one.example else ""
        table.add_row(one.feature, differ, f"{one.share:.2%}", not_served, only_served, example)
    return table


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def report(config: SkewConfig) -> None:
    """Print the comparison.

    Raises:
        BadInput: a feature differs in a larger share of the rows than ``config.most``.
    """
    found = find_skew(config, datetime.now(UTC))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110).print(render(found))
    beyond = [one.feature for one in found if one.share > config.most]
    if beyond:
        raise BadInput(f"More than {config.most:.2%} of the served rows differ in {beyond}.")
