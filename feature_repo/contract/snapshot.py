"""How features are spread over users: what a release was trained on, and what is served.

A snapshot keeps shares, not rows: of numbers a hundred quantiles of the training rows as cuts, of
categories the most frequent values, of both the missing ones. Of lists it keeps the lengths, as
numbers. The same code counts other rows by the same cuts, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.columns import column_of, list_column
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Derive, Encoding, Entity, Feature, Schema

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FILE = "monitor.json"
"""Name of the snapshot in a release."""
FORMAT = 1
CUTS = 100
"""Quantiles of a number that are kept."""
USUAL_DAYS = 28.0
"""Time over which features change by themselves."""
MOST_LABELS = 30
"""Values of a category that are kept; the others count together."""
DAY_S = 86_400.0


class Kind(StrEnum):
    """How a feature's values are told apart."""

    NUMBER = "number"
    CATEGORY = "category"


@dataclass(frozen=True)
class Counted:
    """Some rows by the cells of a ``Spread``."""

    cells: Ints
    """[C] rows with a value in the cell."""
    missing: int
    """Rows without a value."""

    @property
    def present(self) -> int:
        """Rows with a value."""
        return int(self.cells.sum())

    @property
    def rows(self) -> int:
        """All rows."""
        return self.present + self.missing


@dataclass(frozen=True)
class Spread:
    """How the values of one feature are spread."""

    name: str
    kind: Kind
    counts: list[int]
    """[C] rows of each cell."""
    missing: int
    """Rows without a value."""
    cuts: list[float] = field(default_factory=list)
    """Of numbers, rising: cell c has the values above cut c - 1, up to cut c, itself included."""
    labels: list[str] = field(default_factory=list)
    """Of categories, one a cell; the last cell has all others."""
    usual: float = 0.0
    """Distance from the rows of ``USUAL_DAYS`` earlier: users grow older, and buy more in all."""
    usual_missing: float = 0.0
    """Likewise, of the missing share."""

    @staticmethod
    def of_numbers(name: str, values: Doubles) -> Spread:
        """Of N numbers; NaN is missing."""
        kept = values[~np.isnan(values)]
        if not len(kept):
            return Spread(name, Kind.NUMBER, [0], len(values))
        places = np.linspace(0, 1, CUTS + 1)[1:-1]
        cuts = np.unique(np.quantile(kept, places, method="inverted_cdf"))
        empty = Spread(name, Kind.NUMBER, [0] * (len(cuts) + 1), 0, cuts=cuts.tolist())
        return empty._filled(empty.count_numbers(values))

    @staticmethod
    def of_labels(name: str, values: pa.Array) -> Spread:
        """Of N texts; null is missing."""
        found = pc.value_counts(values.drop_null())
        pairs = sorted(
            zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True),
            key=lambda pair: (-pair[1], pair[0]),
        )
        labels = [label for label, _ in pairs[:MOST_LABELS]]
        empty = Spread(name, Kind.CATEGORY, [0] * (len(labels) + 1), 0, labels=labels)
        return empty._filled(empty.count_labels(values))

    def _filled(self, counted: Counted) -> Spread:
        return Spread(
            self.name, self.kind, counted.cells.tolist(), counted.missing, self.cuts, self.labels
        )

    def count_numbers(self, values: Doubles) -> Counted:
        """Put numbers into the cells."""
        kept = values[~np.isnan(values)]
        cells = np.bincount(np.searchsorted(self.cuts, kept), minlength=len(self.counts))
        return Counted(cells.astype(np.int64), len(values) - len(kept))

    def count_labels(self, values: pa.Array) -> Counted:
        """Put texts into the cells."""
        place = pc.index_in(values, pa.array(self.labels, pa.string()))
        known = np.asarray(place.drop_null(), dtype=np.int64)
        cells = np.bincount(known, minlength=len(self.counts))
        cells[-1] += len(values) - values.null_count - len(known)
        return Counted(cells.astype(np.int64), values.null_count)

    def distance(self, other: Counted) -> float:
        """Largest difference of cumulative shares of numbers, or of shares of categories."""
        mine, theirs = self.counted, other
        if not mine.present or not theirs.present:
            return 0.0
        apart = mine.cells / mine.present - theirs.cells / theirs.present
        return float(np.abs(np.cumsum(apart) if self.kind is Kind.NUMBER else apart).max())

    def with_usual(self, earlier: Counted) -> Spread:
        """With what is usual by the rows of ``USUAL_DAYS`` earlier."""
        if not earlier.rows or not self.counted.rows:
            return self
        missing = self.missing / self.counted.rows - earlier.missing / earlier.rows
        return replace(self, usual=self.distance(earlier), usual_missing=abs(missing))

    @property
    def counted(self) -> Counted:
        """The rows that it was made of."""
        return Counted(np.array(self.counts, np.int64), self.missing)


@dataclass(frozen=True)
class Snapshot:
    """What a release was trained on, as far as a monitor needs it."""

    fingerprint: str
    """Of the schema of the features."""
    rows: int
    about: str
    """Which rows these are; a sentence."""
    features: tuple[Spread, ...]
    scores: Spread | None = None
    """Of the item in the first place of each list, by the default ranker."""
    lists: dict[str, float] = field(default_factory=dict)
    """What these rows' lists are like: novelty in bits, coverage as a share, and their number."""

    @staticmethod
    def of(rows: pa.Table, schema: Schema, about: str) -> Snapshot:
        """Of rows of user features, with ``event_timestamp``."""
        spreads = [
            Spread.of_numbers(feature.name, numbers_of(rows, feature))
            if kind_of(feature) is Kind.NUMBER
            else Spread.of_labels(feature.name, labels_of(rows, feature))
            for feature in watched(schema, rows.column_names)
        ]
        return Snapshot(schema.fingerprint, len(rows), about, tuple(spreads))

    def count(self, rows: pa.Table, schema: Schema) -> dict[str, Counted]:
        """Feature -> other rows by the same cells; features that these rows lack are left out."""
        mine = {spread.name: spread for spread in self.features}
        return {
            feature.name: mine[feature.name].count_numbers(numbers_of(rows, feature))
            if mine[feature.name].kind is Kind.NUMBER
            else mine[feature.name].count_labels(labels_of(rows, feature))
            for feature in watched(schema, rows.column_names)
            if feature.name in mine
        }

    def with_usual(self, earlier: pa.Table, schema: Schema) -> Snapshot:
        """That knows how features change by themselves in ``USUAL_DAYS``.

        Args:
            earlier: rows such as it was made of, of as much earlier.
            schema: of the features.
        """
        counted = self.count(earlier, schema)
        return replace(
            self, features=tuple(one.with_usual(counted[one.name]) for one in self.features)
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @staticmethod
    def load(path: Path) -> Snapshot:
        """Read a saved snapshot.

        Raises:
            ArtifactError: missing, truncated, or of another format.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ArtifactError(f"{path} is not a snapshot of format {FORMAT}; export again.")
        try:
            spreads = tuple(_spread(one) for one in value.pop("features"))
            scores = value.pop("scores")
            return Snapshot(features=spreads, scores=scores and _spread(scores), **value)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} does not describe a snapshot: {error!r}") from error


def _spread(value: dict[str, Any]) -> Spread:
    return Spread(**{**value, "kind": Kind(value["kind"])})


def watched(schema: Schema, columns: Sequence[str]) -> list[Feature]:
    """The user features that a snapshot has: those that a model reads by themselves."""
    present = set(columns)
    encodings = (Encoding.CATEGORICAL, Encoding.NUMERIC, Encoding.BAG)
    return [f for f in schema.encoded(Entity.USER, *encodings) if f.name in present]


def kind_of(feature: Feature) -> Kind:
    """Whether a feature's values are numbers or categories."""
    return Kind.CATEGORY if feature.encoding is Encoding.CATEGORICAL else Kind.NUMBER


def labels_of(rows: pa.Table, feature: Feature) -> pa.Array:
    """[N] a category's values as texts."""
    return column_of(rows, feature.name).cast(pa.string())


def numbers_of(rows: pa.Table, feature: Feature) -> Doubles:
    """[N] a feature's values as a model reads them: of lists their lengths, of times the days.

    Raises:
        BadInput: the column holds no numbers.
    """
    if feature.encoding is Encoding.BAG:
        lengths = np.diff(list_column(rows, feature.name)[1]).astype(np.float64)
        return np.where(lengths > 0, lengths, np.nan)
    try:
        column = column_of(rows, feature.name).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"The column {feature.name!r} holds no numbers: {error}") from error
    values = np.asarray(column.fill_null(np.nan), dtype=np.float64)
    if feature.derive is Derive.DAYS_SINCE:
        stamps = column_of(rows, "event_timestamp").cast(pa.timestamp("us", tz="UTC"))
        now_s = np.asarray(stamps.cast(pa.int64()), dtype=np.float64) / 1e6
        return np.asarray((now_s - values) / DAY_S)
    return values
