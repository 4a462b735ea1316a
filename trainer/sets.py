"""Reading training sets: features strictly before each row's time, and what was bought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.contract.artifacts import read_table, sha256_file
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.schema import Encoding, Entity, Schema
from feature_repo.contract.vocabulary import Vocabulary

Ints = npt.NDArray[np.int64]

TARGET = "target_item_id"
QUANTILE_ROWS = 1_000_000
"""Rows that the quantiles of numeric features are found on, at most."""


@dataclass(frozen=True)
class TrainingSet:
    """One folder ``<service>-<kind>-<cutoff>`` of a data set."""

    folder: Path
    schema: Schema

    @staticmethod
    def open(dataset: Dataset, service: str, kind: str, cutoff: str) -> TrainingSet:
        """Find a set by its cut-off: an edge's name or an ISO time.

        Raises:
            ArtifactError: it was not made; the command that makes it is named.
        """
        time = dataset.edge(cutoff)
        names = [f"t{index}" for index, edge in enumerate(dataset.edges) if edge == time]
        names.append(time.strftime("%Y%m%dT%H%M%SZ"))
        for name in names:
            folder = dataset.sets / f"{service}-{kind}-{name}"
            if (folder / "set.json").exists():
                return TrainingSet(folder, Schema.load(folder / "schema.json"))
        raise ArtifactError(
            f"There is no training set {service}-{kind}-{cutoff} in {dataset.sets}. Make it: "
            f"python -m feature_repo.jobs training-set data={dataset.name} service={service} "
            f"kind={kind} cutoff={cutoff}"
        )

    @property
    def digest(self) -> str:
        """Changes whenever the set does."""
        return sha256_file(self.folder / "set.json")

    @property
    def users(self) -> pq.ParquetFile:
        """The rows of users, to be read by row groups."""
        try:
            return pq.ParquetFile(self.folder / "users.parquet")
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{self.folder} has no whole users.parquet: {error}") from error

    @property
    def items(self) -> pa.Table:
        """``item_id`` and item features, one row for each item with an event before the cut-off."""
        return read_table(self.folder / "items.parquet")

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The users' rows, one row group at a time."""
        file = self.users
        missing = sorted(set(columns) - set(file.schema_arrow.names))
        if missing:
            raise ArtifactError(
                f"{self.folder / 'users.parquet'} lacks {missing}; it has "
                f"{file.schema_arrow.names}."
            )
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns))

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
    sessions: TrainingSet, dataset: Dataset, min_buyers: int, history_length: int
) -> Encoder:
    """An encoder whose vocabularies are all users of a set, and all items with enough buyers."""
    purchases = bought(sessions)
    users = Vocabulary.build(pc.unique(purchases.column("user_id")), dataset.user_id)
    buyers = purchases.group_by("item_id").aggregate([("user_id", "count_distinct")])
    kept = buyers.filter(pc.greater_equal(buyers.column("user_id_count_distinct"), min_buyers))
    if not len(kept):
        raise ArtifactError(
            f"No item of {sessions.folder} has {min_buyers} buyers; lower model.min_buyers."
        )
    items = Vocabulary.build(kept.column("item_id"), dataset.item_id)
    return Encoder.fit(
        sessions.schema, users, items, sessions.numeric_rows(), sessions.items, history_length
    )


def bought(sessions: TrainingSet) -> pa.Table:
    """``user_id, item_id``: every line of every session."""
    parts = []
    for chunk in sessions.chunks(["user_id", TARGET]):
        items, offsets = list_column(chunk, TARGET)
        owners = np.repeat(np.arange(len(chunk)), np.diff(offsets))
        users = column_of(chunk, "user_id").take(pa.array(owners))
        parts.append(pa.table({"user_id": users, "item_id": items}))
    return pa.concat_tables(parts)
