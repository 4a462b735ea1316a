"""From feature rows to model inputs: one encoder for training and for serving.

Each encoded feature becomes a bag of table rows (``categorical``, ``numeric`` and ids have one
row each), and each numeric one also a dense value, its rank among the training snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import atomic_folder, read_json, write_json, write_manifest
from feature_repo.contract.columns import AnyRows, column_of, list_column, once, taken, texts_of
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import (
    MOMENTS,
    Derive,
    Encoding,
    Entity,
    Feature,
    Schema,
)
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary, hash_strings

KIND = "encoder"
FEW = 128
"""Rows up to which a text is looked up among those that were hashed before."""
IDS = {Entity.USER: "user_id", Entity.ITEM: "item_id"}

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_FIRST_WEEKDAY = 3
"""1970-01-01 was a Thursday."""


@dataclass(frozen=True)
class Bag:
    """Rows of one table for B examples; example b owns ``[offsets[b], offsets[b+1])``."""

    values: Ints
    offsets: Ints
    weights: Floats | None = None
    """None means that every row weighs 1."""
    is_single: bool = False
    """Whether every example is known to have one row, of weight 1."""

    @staticmethod
    def single(values: Ints) -> Bag:
        """One row an example."""
        return Bag(values, np.arange(len(values) + 1, dtype=np.int64), is_single=True)

    def take(self, index: Ints) -> Bag:
        """The bags of some examples, in the order of ``index``."""
        if self.is_single:
            return Bag.single(self.values[index])
        place, offsets = taken(self.offsets, index)
        return Bag(
            self.values[place], offsets, None if self.weights is None else self.weights[place]
        )

    def head(self, length: int) -> Bag:
        """The first ``length`` entries of every bag."""
        kept = np.minimum(np.diff(self.offsets), length)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])
        place = np.repeat(self.offsets[:-1] - offsets[:-1], kept)
        place = place + np.arange(offsets[-1], dtype=np.int64)
        return Bag(
            self.values[place], offsets, None if self.weights is None else self.weights[place]
        )


@dataclass(frozen=True)
class Encoded:
    """Model inputs of B examples of one entity."""

    bags: dict[str, Bag]
    """Feature name -> rows; the entity's own id is among them."""
    dense: Floats
    """[B, F] quantile ranks in [-1, 1]; 0 where missing. Columns: the numeric features."""

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, index: Ints) -> Encoded:
        """Some examples, in the order of ``index``."""
        return Encoded(
            {name: bag.take(index) for name, bag in self.bags.items()}, self.dense[index]
        )


@dataclass(frozen=True)
class TableSpec:
    """One embedding table and the features that read it."""

    name: str
    num_rows: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Quantiles:
    """Cut points of numeric features, found on a training snapshot."""

    edges: dict[str, Floats]
    """Feature -> rising cut points; equal ones merged. Empty where the snapshot had no value."""

    @staticmethod
    def fit(columns: Mapping[str, npt.ArrayLike], buckets: Mapping[str, int]) -> Quantiles:
        """Cut each column at ``buckets - 2`` quantiles of its finite values (row 0: missing)."""
        edges = {}
        for name, values in columns.items():
            array = np.asarray(values, dtype=np.float64)
            array = array[np.isfinite(array)]
            cuts = np.linspace(0.0, 1.0, max(buckets[name], 2))[1:-1]
            found = np.quantile(array, cuts) if len(array) and len(cuts) else np.zeros(0)
            edges[name] = np.unique(found.astype(np.float32))
        return Quantiles(edges)

    def bucket(self, name: str, values: npt.NDArray[Any]) -> Ints:
        """[B] bucket rows, from 1; 0 where the value is missing (NaN)."""
        place = np.searchsorted(self.edges[name], values.astype(np.float32), side="left") + 1
        return np.where(np.isnan(values), 0, place).astype(np.int64)

    def rank(self, name: str, values: npt.NDArray[Any]) -> Floats:
        """[B] place among the snapshot's values, from -1 to 1; 0 where missing."""
        edges = self.edges[name]
        if len(edges) < 2:
            return np.zeros(len(values), dtype=np.float32)
        rank = np.interp(values.astype(np.float32), edges, np.linspace(-1.0, 1.0, len(edges)))
        return np.where(np.isnan(values), 0.0, rank).astype(np.float32)


@dataclass(frozen=True)
class Encoder:
    """Turns rows of features into model inputs; saved with every model that it fed."""

    schema: Schema
    users: Vocabulary
    items: Vocabulary
    quantiles: Quantiles
    history_length: int = 50
    """Entries of a history bag that are read, most recent first."""

    @staticmethod
    def fit(
        schema: Schema,
        users: Vocabulary,
        items: Vocabulary,
        user_rows: pa.Table,
        item_rows: pa.Table,
        history_length: int = 50,
    ) -> Encoder:
        """Find the quantiles of the numeric features on the training rows.

        The rows carry their query time in ``event_timestamp``.
        """
        columns: dict[str, Floats] = {}
        buckets: dict[str, int] = {}
        for entity, table in ((Entity.USER, user_rows), (Entity.ITEM, item_rows)):
            now_s = query_times_s(table)
            for feature in schema.encoded(entity, Encoding.NUMERIC):
                columns[feature.name] = numeric_values(table, feature, now_s)
                buckets[feature.name] = feature.buckets
        return Encoder(schema, users, items, Quantiles.fit(columns, buckets), history_length)

    def tables(self) -> tuple[TableSpec, ...]:
        """Every embedding table that a model over this schema needs, ids first."""
        encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
        return table_specs(self.schema, self.users.num_rows, self.items.num_rows, encodings)

    def keys(self, entity: Entity) -> tuple[str, ...]:
        """Names of the bags that ``encode`` makes for an entity, its id first."""
        encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
        return (IDS[entity], *(f.name for f in self.schema.encoded(entity, *encodings)))

    def dense_names(self, entity: Entity) -> tuple[str, ...]:
        """Names of the columns of ``Encoded.dense``."""
        return tuple(f.name for f in self.schema.encoded(entity, Encoding.NUMERIC))

    def encode(self, table: AnyRows, entity: Entity, now_s: Ints | None = None) -> Encoded:
        """Model inputs of the rows of ``table``.

        Args:
            table: the entity's id column and its features; extra columns are ignored.
            entity: whose rows they are.
            now_s: [B] epoch seconds; by default the rows' ``event_timestamp``.

        Raises:
            BadInput: a feature's column is missing or of a wrong type, named.
        """
        now = query_times_s(table) if now_s is None else now_s
        vocabulary = self.users if entity is Entity.USER else self.items
        name = IDS[entity]
        bags = {name: Bag.single(vocabulary.rows(column_of(table, name)))}
        dense: list[Floats] = []
        for feature in self.schema.of(entity):
            match feature.encoding:
                case Encoding.CATEGORICAL if feature.derive in MOMENTS:
                    bags[feature.name] = Bag.single(moment_rows(feature.derive, now))
                case Encoding.CATEGORICAL:
                    bags[feature.name] = Bag.single(_categorical_rows(table, feature))
                case Encoding.NUMERIC:
                    values = numeric_values(table, feature, now)
                    bags[feature.name] = Bag.single(self.quantiles.bucket(feature.name, values))
                    dense.append(self.quantiles.rank(feature.name, values))
                case Encoding.BAG:
                    bags[feature.name] = self._bag(table, feature)
                case Encoding.STATE | Encoding.NONE:
                    pass
        stacked = np.stack(dense, axis=1) if dense else np.zeros((len(table), 0), np.float32)
        return Encoded(bags, stacked)

    def _bag(self, table: AnyRows, feature: Feature) -> Bag:
        ids, offsets = list_column(table, feature.name)
        vocabulary = self.items if feature.bag_of == "item_id" else self.users
        weights = None
        if feature.bag_weight is not None:
            values, own = list_column(table, feature.bag_weight)
            if not np.array_equal(own, offsets):
                row = int(np.flatnonzero(np.diff(own) != np.diff(offsets))[0])
                raise BadInput(
                    f"Row {row}: {feature.bag_weight} has not as many values as {feature.name}."
                )
            weights = np.asarray(values).astype(np.float32)
        return Bag(vocabulary.rows(ids), offsets, weights).head(self.history_length)

    def save(self, folder: Path) -> None:
        """Write schema, quantiles and vocabularies as a folder, atomically."""
        with atomic_folder(folder) as temporary:
            self.schema.save(temporary / "schema.json")
            self.users.save(temporary / "users")
            self.items.save(temporary / "items")
            edges = {name: cuts.tolist() for name, cuts in self.quantiles.edges.items()}
            write_json(temporary / "quantiles.json", edges)
            about = {
                "history_length": self.history_length,
                "user_id": self.users.id_type.value,
                "item_id": self.items.id_type.value,
                "fingerprint": self.schema.fingerprint,
            }
            write_manifest(temporary, KIND, about)

    @staticmethod
    def load(folder: Path) -> Encoder:
        """Read a saved encoder; vocabularies are memory-mapped.

        Raises:
            ArtifactError: missing or truncated; hashes are checked by the bundle that holds it.
        """
        manifest = read_json(folder / "manifest.json")
        if manifest.get("kind") != KIND:
            raise ArtifactError(f"{folder} holds a {manifest.get('kind')!r}; expected {KIND!r}.")
        about = manifest["about"]
        edges = read_json(folder / "quantiles.json")
        return Encoder(
            Schema.load(folder / "schema.json"),
            Vocabulary.load(folder / "users", IdType(about["user_id"])),
            Vocabulary.load(folder / "items", IdType(about["item_id"])),
            Quantiles({name: np.array(cuts, np.float32) for name, cuts in edges.items()}),
            int(about["history_length"]),
        )


def table_specs(
    schema: Schema, user_rows: int, item_rows: int, encodings: Iterable[Encoding]
) -> tuple[TableSpec, ...]:
    """The tables of a schema over vocabularies of so many rows, ids first.

    Args:
        schema: the features.
        user_rows: of the user table.
        item_rows: of the item table.
        encodings: of the features that have tables.
    """
    kept = [f for e in IDS for f in schema.encoded(e, *encodings)]
    bags = [f for f in kept if f.encoding is Encoding.BAG]
    sizes = {"user_id": user_rows, "item_id": item_rows}
    ids = tuple(
        TableSpec(name, rows, (name, *(bag.name for bag in bags if bag.bag_of == name)))
        for name, rows in sizes.items()
    )
    coded = [f for f in kept if f.encoding is not Encoding.BAG]
    return ids + tuple(TableSpec(f.name, f.buckets, (f.name,)) for f in coded)


def query_times_s(table: AnyRows) -> Ints:
    """[B] the rows' query times in epoch seconds, rounded up to the next whole second."""

    def read() -> Ints:
        column = column_of(table, "event_timestamp").cast(pa.timestamp("us", tz="UTC"))
        microseconds = np.asarray(column.cast(pa.int64()))
        return -(-microseconds // 1_000_000)

    return once(table, "query_times_s", read)


def _categorical_rows(table: AnyRows, feature: Feature) -> Ints:
    def hashed() -> Ints:
        if len(table) > FEW:
            return categorical_rows(column_of(table, feature.name), feature.buckets)
        texts = texts_of(table, feature.name)
        rows = [0 if text is None else _hashed_row(text, feature.buckets) for text in texts]
        return np.array(rows, np.int64)

    return once(table, ("categorical", feature.name, feature.buckets), hashed)


@lru_cache(maxsize=65_536)
def _hashed_row(text: str, buckets: int) -> int:
    return int(categorical_rows(pa.array([text]), buckets)[0])


def categorical_rows(column: pa.Array, buckets: int) -> Ints:
    """[B] hashed rows in 1..buckets-1; 0 where the value is missing."""
    text = column if pa.types.is_string(column.type) else column.cast(pa.string())
    encoded = pc.dictionary_encode(text)
    keys = hash_strings(encoded.dictionary)
    rows = (keys % np.uint64(buckets - 1)).astype(np.int64) + 1
    codes = np.asarray(encoded.indices.fill_null(-1)).astype(np.int64)
    return np.where(codes < 0, 0, rows[codes] if len(rows) else 0).astype(np.int64)


def moment_rows(derive: Derive, now_s: Ints) -> Ints:
    """[B] rows from 1 of the hour or the weekday of times in epoch seconds."""
    if derive is Derive.HOUR:
        return now_s // 3600 % 24 + 1
    return (now_s // int(DAY_S) + _FIRST_WEEKDAY) % 7 + 1


def numeric_values(table: AnyRows, feature: Feature, now_s: Ints) -> Floats:
    """[B] a numeric feature's values at ``now_s``; NaN where missing."""
    values = once(table, ("numbers", feature.name), lambda: _numbers(table, feature.name))
    if feature.derive is Derive.DAYS_SINCE:
        values = (now_s - values) / DAY_S
    return values.astype(np.float32)


def _numbers(table: AnyRows, name: str) -> npt.NDArray[np.float64]:
    try:
        column = column_of(table, name).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"Feature {name} must be numbers: {error}") from error
    return np.asarray(column.fill_null(np.nan), dtype=np.float64)
