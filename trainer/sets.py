"""Reading training sets: features strictly before each row's time, and what was bought."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import read_json, read_table, sha256_file
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.dataset import Dataset, parse_time
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.events import TARGET as TARGET
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.vocabulary import Vocabulary

Ints = npt.NDArray[np.int64]

SERVICE = "retrieval_v1"
"""Features of the candidate models."""
RATING = "target_rating"
"""The ratings of the targets, where they are explicit."""
SEEN = "seen_item_id"
"""Everything that a user bought, where the rows have it."""
BEGINNING = datetime.min.replace(tzinfo=UTC)
QUANTILE_ROWS = 1_000_000
"""Rows that the quantiles of numeric features are found on, at most."""
COUNTING_MEMORY = "2GB"
"""Memory in which distinct users and items are counted."""


@dataclass(frozen=True)
class TrainingSet:
    """One folder ``<service>-<kind>-<cutoff>`` of a data set."""

    folder: Path
    schema: Schema

    @staticmethod
    def open(
        dataset: Dataset, service: str, kind: str, cutoff: str, *, until: datetime | None = None
    ) -> TrainingSet:
        """Find a set by its cut-off: an edge's name or an ISO time.

        Of several of one cut-off, that whose labels reach furthest, though not past ``until``.

        Raises:
            ArtifactError: it was not made; the command that makes it is named.
        """
        time = dataset.edge(cutoff)
        names = [name for name, edge in dataset.named_edges.items() if edge == time]
        names.append(time.strftime("%Y%m%dT%H%M%SZ"))
        folders = [dataset.sets / f"{service}-{kind}-{name}" for name in names]
        made = [
            TrainingSet(folder, Schema.load(folder / "schema.json"))
            for folder in folders
            if (folder / "set.json").exists()
        ]
        if not made:
            raise ArtifactError(
                f"There is no training set {service}-{kind}-{cutoff} in {dataset.sets}. Make it: "
                f"python -m feature_repo.jobs training-set data={dataset.name} service={service} "
                f"kind={kind} cutoff={cutoff}"
            )
        return made[0] if until is None else max(made, key=lambda one: one._reach(until))

    def _reach(self, until: datetime) -> datetime:
        """When the labels end; the beginning of time without any, or with some past ``until``."""
        last = self.until
        return BEGINNING if last is None or last > until else last

    @property
    def until(self) -> datetime | None:
        """When the labels end; None where there are none."""
        last = read_json(self.folder / "set.json").get("until")
        return None if last is None else parse_time(last)

    @property
    def digest(self) -> str:
        """Changes whenever the set does."""
        return sha256_file(self.folder / "set.json")

    @property
    def path(self) -> Path:
        """The rows of users."""
        return self.folder / "users.parquet"

    @cached_property
    def users(self) -> pq.ParquetFile:
        """The rows of users, to be read by row groups."""
        try:
            return pq.ParquetFile(self.path, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{self.folder} has no whole users.parquet: {error}") from error

    def group_sizes(self) -> Ints:
        """Rows of each row group."""
        metadata = self.users.metadata
        groups = range(metadata.num_row_groups)
        return np.array([metadata.row_group(group).num_rows for group in groups], dtype=np.int64)

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a row group.

        Raises:
            ArtifactError: the file lacks a column, or the row group is broken; named.
        """
        file = self.users
        missing = sorted(set(columns) - set(file.schema_arrow.names))
        if missing:
            raise ArtifactError(f"{self.path} lacks {missing}; it has {file.schema_arrow.names}.")
        try:
            return file.read_row_group(group, columns=list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"Row group {group} of {self.path} cannot be read: {error}. Make the set again: "
                "python -m feature_repo.jobs training-set ... force=true"
            ) from error

    @property
    def items(self) -> pa.Table:
        """``item_id`` and item features, one row for each item with an event before the cut-off."""
        return read_table(self.folder / "items.parquet")

    def item_rows(self, schema: Schema) -> pa.Table:
        """The items with the columns that a schema's encoder reads."""
        encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
        names = [feature.name for feature in schema.encoded(Entity.ITEM, *encodings)]
        return read_table(self.folder / "items.parquet", ["item_id", "event_timestamp", *names])

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The users' rows, one row group at a time."""
        for group in range(len(self.group_sizes())):
            yield self.read_group(group, columns)

    def numeric_rows(self) -> pa.Table:
        """Query times and numeric features of up to ``QUANTILE_ROWS`` rows."""
        numbers = [f.name for f in self.schema.encoded(Entity.USER, Encoding.NUMERIC)]
        found: list[pa.Table] = []
        for chunk in self.chunks(["event_timestamp", *numbers]):
            found.append(chunk)
            if sum(map(len, found)) >= QUANTILE_ROWS:
                break
        return pa.concat_tables(found)


def fit_encoder(
    sessions: TrainingSet,
    dataset: Dataset,
    min_buyers: int,
    history_length: int,
    base: Encoder | None = None,
    context: Iterable[Feature] = (),
) -> Encoder:
    """An encoder whose vocabularies are all users of a set, and all items with enough buyers.

    Args:
        sessions: the set.
        dataset: where it is from.
        min_buyers: users that must have bought an item.
        history_length: items of a history that are read.
        base: an encoder whose ids keep their rows and whose features are encoded as before.
        context: features of the request, beside those of the set.

    Raises:
        ArtifactError: no item has enough buyers, or ``base`` reads other features.
    """
    schema = sessions.schema.extended(context)
    if base is not None:
        schema.require_same(base.schema, "the model that is started from")
    user_ids, item_ids = vocabulary_ids(sessions, min_buyers)
    if not len(item_ids):
        raise ArtifactError(
            f"No item of {sessions.folder} has {min_buyers} buyers; lower model.min_buyers."
        )
    users = Vocabulary.build(user_ids, dataset.user_id, None if base is None else base.users)
    items = Vocabulary.build(item_ids, dataset.item_id, None if base is None else base.items)
    if base is not None:
        return replace(base, users=users, items=items, history_length=history_length)
    return Encoder.fit(
        schema,
        users,
        items,
        sessions.numeric_rows(),
        sessions.item_rows(sessions.schema),
        history_length,
    )


def vocabulary_ids(sessions: TrainingSet, min_buyers: int) -> tuple[pa.Array, pa.Array]:
    """The distinct users of a set, and its items with at least ``min_buyers`` of them.

    DuckDB counts them, and goes to disk where memory does not suffice.
    """
    rows = f"read_parquet('{sessions.path}')"
    queries = (
        f"SELECT DISTINCT user_id FROM {rows}",
        f"SELECT item_id FROM (SELECT DISTINCT user_id, unnest({TARGET}) AS item_id FROM {rows}) "
        f"GROUP BY item_id HAVING count(*) >= {min_buyers}",
    )
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        database.execute("SET memory_limit = ?", [COUNTING_MEMORY])
        database.execute("SET temp_directory = ?", [folder])
        try:
            users, items = (database.sql(query).to_arrow_table() for query in queries)
        except duckdb.Error as error:
            for _ in sessions.chunks(["user_id", TARGET]):
                pass  # names the row group that is broken
            raise ArtifactError(f"{sessions.path} cannot be read: {error}") from error
    return column_of(users, "user_id"), column_of(items, "item_id")


def target_counts(sessions: TrainingSet, items: Vocabulary) -> Ints:
    """[R] how often each item row is a target; row 0 counts the unknown ones."""
    counts = np.zeros(items.num_rows, dtype=np.int64)
    for chunk in sessions.chunks([TARGET]):
        ids, _ = list_column(chunk, TARGET)
        counts += np.bincount(items.rows(ids), minlength=items.num_rows)
    return counts


def judged_users(dataset: Dataset, cutoff: str) -> pa.Table:
    """Users at the cut-off, and what they bought in the window after it."""
    found = TrainingSet.open(dataset, "ranking_v1", "users", cutoff)
    return pa.concat_tables(found.chunks(found.users.schema_arrow.names))
