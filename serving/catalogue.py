"""What is shown of items and what they can be filtered by, by row of the item vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.columns import column_of
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.vocabulary import Vocabulary
from serving.ids import BadField

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TEXTS = (
    "title",
    "department",
    "category",
    "subcategory",
    "brand",
    "brand_tier",
    "package_size",
)
"""Text columns that an answer shows."""

GROUPS = ("department", "category", "subcategory", "brand")
"""Columns that a request may filter by."""


@dataclass(frozen=True)
class Filters:
    """What an item must be to be recommended; an item whose value is unknown does not pass."""

    department: Sequence[str] = ()
    """One of these; empty: any."""
    category: Sequence[str] = ()
    subcategory: Sequence[str] = ()
    brand: Sequence[str] = ()
    price_min: float | None = None
    price_max: float | None = None

    def __post_init__(self) -> None:
        for name in ("price_min", "price_max"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadField(f"filters.{name}", f"{name} must be zero or more; got {value}.")
        if None not in (self.price_min, self.price_max) and self.price_min > self.price_max:  # type: ignore[operator]
            raise BadField(
                "filters.price_min",
                f"price_min must not be above price_max; got {self.price_min} and "
                f"{self.price_max}.",
            )

    @property
    def empty(self) -> bool:
        """Whether every item passes."""
        return self == Filters()


class Catalogue:
    """The item rows of a release, found by row of the vocabulary (R rows; row 0 is unknown)."""

    def __init__(self, items: pa.Table, vocabulary: Vocabulary) -> None:
        rows = vocabulary.rows(column_of(items, "item_id"))
        self._place = np.full(vocabulary.num_rows, -1, dtype=np.int64)
        self._place[rows] = np.arange(len(items))
        missing = np.flatnonzero(self._place[1:] < 0) + 1
        if len(missing):
            raise ArtifactError(
                f"The release's items.parquet lacks {len(missing)} items of its retriever, such as "
                f"{vocabulary.ids_of(missing[:1])[0]!r}; export it again."
            )
        self._texts = items.select([name for name in TEXTS if name in items.column_names])
        self.price = self._by_row(_price(items))
        """[R] present price a unit; NaN where unknown."""
        self.available = self._by_row(_available(items)) > 0
        """[R] whether an item may be sold; unknown counts as available."""
        self._codes = {name: self._group(items, name) for name in GROUPS}

    def _by_row(self, values: Floats) -> Floats:
        by_row = values[np.maximum(self._place, 0)]
        by_row[0] = np.nan
        return by_row

    def _group(self, items: pa.Table, name: str) -> tuple[pa.Array, npt.NDArray[np.int32]]:
        """The group's names and each row's index into them; -1 where missing."""
        if name not in items.column_names:
            return pa.array([], pa.string()), np.full(len(self._place), -1, np.int32)
        coded = column_of(items, name).cast(pa.string()).dictionary_encode()
        codes = np.asarray(coded.indices.fill_null(-1)).astype(np.int32)[np.maximum(self._place, 0)]
        codes[0] = -1
        return coded.dictionary, codes

    def describe(self, rows: Ints) -> list[dict[str, Any]]:
        """What to show of each item: its texts and its price, None where unknown."""
        texts = self._texts.take(pa.array(self._place[rows])).to_pylist() or [{}] * len(rows)
        prices = [
            None if math.isnan(price) else round(float(price), 2) for price in self.price[rows]
        ]
        return [{**text, "price": price} for text, price in zip(texts, prices, strict=True)]

    def passes(self, rows: Ints, filters: Filters) -> Bools:
        """[N] whether the items of ``rows`` are available and pass the filters."""
        passed = self.available[rows]
        for name in GROUPS:
            wanted = getattr(filters, name)
            if wanted:
                names, codes = self._codes[name]
                found = pc.index_in(pa.array(list(wanted), pa.string()), names)
                passed = passed & np.isin(codes[rows], np.asarray(found.drop_null()))
        with np.errstate(invalid="ignore"):
            if filters.price_min is not None:
                passed = passed & (self.price[rows] >= filters.price_min)
            if filters.price_max is not None:
                passed = passed & (self.price[rows] <= filters.price_max)
        return passed


def _price(items: pa.Table) -> Floats:
    """The catalogue's price, else the mean price of the last weeks."""
    columns = [name for name in ("price", "price_28d", "price_usual") if name in items.column_names]
    if not columns:
        return np.full(len(items), np.nan, dtype=np.float32)
    found = pc.coalesce(*[column_of(items, name).cast(pa.float32()) for name in columns])
    return np.array(found.fill_null(np.nan), dtype=np.float32)


def _available(items: pa.Table) -> Floats:
    if "available" not in items.column_names:
        return np.ones(len(items), dtype=np.float32)
    known = column_of(items, "available").cast(pa.bool_()).fill_null(True)
    return np.array(known.cast(pa.float32()), dtype=np.float32)
