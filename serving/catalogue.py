"""What is shown of items and what they can be filtered by, by row of the item vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
CATEGORY = "category"
SPARE = 1024
"""Rows for new items that are made room for at once."""


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
    available: bool | None = True
    """Whether it may be sold, where unknown counts as yes; None: either."""

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


@dataclass
class _Group:
    """A column of few distinct texts."""

    names: dict[str, int]
    """Text -> code, from 0."""
    codes: npt.NDArray[np.int32]
    """[C] the code of each row; -1 where missing."""

    def put(self, row: int, text: str | None) -> None:
        """Give a row another text."""
        self.codes[row] = -1 if text is None else self.names.setdefault(text, len(self.names))

    def among(self, rows: Ints, wanted: Iterable[str]) -> Bools:
        """[N] whether the text of each row is one of ``wanted``."""
        codes = [self.names[name] for name in set(wanted) if name in self.names]
        return np.isin(self.codes[rows], codes)


class Catalogue:
    """The item rows of a release, found by row of the vocabulary (R rows; row 0 is unknown).

    Rows may be changed, and new ones put after the last, while others read: one value is changed
    at a time, and a request may see some of a change.
    """

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
        self._changed: dict[int, dict[str, Any]] = {}
        self.price = self._by_row(_price(items))
        """[C] present price a unit; NaN where unknown. C is R and room for new rows."""
        self.available = self._by_row(_available(items)) > 0
        """[C] whether an item may be sold; unknown counts as available."""
        self._groups = {name: self._group(items, name) for name in GROUPS}

    def _by_row(self, values: Floats) -> Floats:
        by_row = values[np.maximum(self._place, 0)]
        by_row[0] = np.nan
        return by_row

    def _group(self, items: pa.Table, name: str) -> _Group:
        if name not in items.column_names:
            return _Group({}, np.full(len(self._place), -1, np.int32))
        coded = column_of(items, name).cast(pa.string()).dictionary_encode()
        codes = np.asarray(coded.indices.fill_null(-1)).astype(np.int32)[np.maximum(self._place, 0)]
        codes[0] = -1
        names = {text: code for code, text in enumerate(coded.dictionary.to_pylist())}
        return _Group(names, codes)

    def put(self, row: int, changes: Mapping[str, Any]) -> None:
        """Change what is known of an item: texts, ``price`` and ``available``; None is unknown."""
        if row >= len(self.price):
            self._make_room(row + SPARE)
        texts = {name: changes[name] for name in TEXTS if name in changes}
        self._changed[row] = {**self._changed.get(row, {}), **texts}
        for name in texts.keys() & self._groups.keys():
            self._groups[name].put(row, texts[name])
        if "price" in changes:
            self.price[row] = np.nan if changes["price"] is None else changes["price"]
        if "available" in changes:
            self.available[row] = changes["available"] is not False

    def _make_room(self, num_rows: int) -> None:
        more = num_rows - len(self.price)
        for group in self._groups.values():
            group.codes = np.append(group.codes, np.full(more, -1, np.int32))
        self._place = np.append(self._place, np.full(more, -1, np.int64))
        self.available = np.append(self.available, np.ones(more, np.bool_))
        self.price = np.append(self.price, np.full(more, np.nan, np.float32))

    def describe(self, rows: Ints) -> list[dict[str, Any]]:
        """What to show of each item: its texts and its price, None where unknown."""
        place = self._place[rows]
        found = self._texts.take(pa.array(place, mask=place < 0)).to_pylist() or [{} for _ in rows]
        known = [
            None if math.isnan(price) else price
            for price in self.price[rows].astype(np.float64).round(2).tolist()
        ]
        if not self._changed:
            for texts, price in zip(found, known, strict=True):
                texts["price"] = price
            return found
        changed = [self._changed.get(row, {}) for row in rows.tolist()]
        return [
            {**texts, **new, "price": price}
            for texts, new, price in zip(found, changed, known, strict=True)
        ]

    def passes(self, rows: Ints, filters: Filters) -> Bools:
        """[N] whether the items of ``rows`` pass the filters."""
        passed = np.ones(len(rows), dtype=np.bool_)
        if filters.available is not None:
            passed &= self.available[rows] == filters.available
        for name in GROUPS:
            wanted = getattr(filters, name)
            if wanted:
                passed &= self._groups[name].among(rows, wanted)
        with np.errstate(invalid="ignore"):
            if filters.price_min is not None:
                passed &= self.price[rows] >= filters.price_min
            if filters.price_max is not None:
                passed &= self.price[rows] <= filters.price_max
        return passed

    def in_categories(self, rows: Ints, categories: Iterable[str]) -> Bools:
        """[N] whether each item is of one of some categories."""
        return self._groups[CATEGORY].among(rows, categories)


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
