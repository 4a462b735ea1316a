from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.vocabulary import Vocabulary
from serving.catalogue import Catalogue, Filters
from serving.ids import BadField

VOCABULARY = Vocabulary.build([10, 20, 30, 40], IdType.INT64)
"""Rows 1 to 4."""


def items(**columns: list[Any]) -> pa.Table:
    """Return item rows in another order than the vocabulary's, one of them unknown to it."""
    return pa.table(
        {
            "item_id": [40, 99, 10, 30, 20],
            "title": ["Milk", "Gone", "Bread", None, "Butter"],
            "department": ["DAIRY", "DAIRY", "BAKERY", None, "DAIRY"],
            "brand": ["A", "A", "B", "B", None],
            "price": pa.array([1.0, 9.0, 2.5, None, None], pa.float32()),
            "price_28d": pa.array([5.0, 9.0, 5.0, 3.999, None], pa.float32()),
            **columns,
        }
    )


ALL = np.array([1, 2, 3, 4])


def passing(filters: Filters, table: pa.Table | None = None) -> list[int]:
    catalogue = Catalogue(items() if table is None else table, VOCABULARY)
    return [int(row) for row in ALL[catalogue.passes(ALL, filters)]]


def test_items_are_described_in_the_order_asked_for() -> None:
    shown = Catalogue(items(), VOCABULARY).describe(np.array([4, 1]))

    assert [item["title"] for item in shown] == ["Milk", "Bread"]
    assert [item["price"] for item in shown] == [1.0, 2.5]


def test_what_is_unknown_is_none() -> None:
    butter, unnamed = Catalogue(items(), VOCABULARY).describe(np.array([2, 3]))

    assert (butter["brand"], butter["price"]) == (None, None)
    assert (unnamed["title"], unnamed["department"]) == (None, None)


def test_the_price_is_the_catalogues_else_that_of_the_last_weeks() -> None:
    prices = Catalogue(items(), VOCABULARY).price

    np.testing.assert_array_equal(prices, np.array([np.nan, 2.5, np.nan, 3.999, 1.0], np.float32))
    assert Catalogue(items(), VOCABULARY).describe(np.array([3]))[0]["price"] == 4.0


def test_without_filters_every_item_passes() -> None:
    assert passing(Filters()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (Filters(department=["DAIRY"]), [2, 4]),
        (Filters(department=["DAIRY", "BAKERY"]), [1, 2, 4]),
        (Filters(department=["NOWHERE"]), []),
        (Filters(department=["DAIRY"], brand=["A"]), [4]),
        (Filters(price_max=2.5), [1, 4]),
        (Filters(price_min=2.0), [1, 3]),
        (Filters(price_min=2.0, price_max=3.0), [1]),
        (Filters(category=["ANY"]), []),  # the shop has no categories
    ],
)
def test_items_pass_by_what_is_known_of_them(filters: Filters, rows: list[int]) -> None:
    assert passing(filters) == rows


def test_what_is_not_available_never_passes_and_unknown_counts_as_available() -> None:
    table = items(available=[False, True, True, None, True])

    assert passing(Filters(), table) == [1, 2, 3]


def test_a_shop_may_lack_every_column() -> None:
    catalogue = Catalogue(items().select(["item_id"]), VOCABULARY)

    assert catalogue.describe(np.array([1])) == [{"price": None}]
    assert catalogue.passes(ALL, Filters()).all()


def test_an_item_of_the_retriever_must_be_in_the_catalogue() -> None:
    with pytest.raises(ArtifactError, match="lacks 1 items of its retriever, such as 20"):
        Catalogue(items().slice(0, 4), VOCABULARY)


@pytest.mark.parametrize(
    ("low", "high", "field"), [(-1.0, None, "price_min"), (None, float("nan"), "price_max")]
)
def test_a_price_is_a_number_from_zero(low: float | None, high: float | None, field: str) -> None:
    with pytest.raises(BadField, match="must be zero or more") as caught:
        Filters(price_min=low, price_max=high)

    assert caught.value.field == f"filters.{field}"


def test_prices_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(BadField, match="price_min must not be above price_max"):
        Filters(price_min=2.0, price_max=1.0)
