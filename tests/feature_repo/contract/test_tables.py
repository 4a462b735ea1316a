from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.encoding import Bag
from feature_repo.contract.errors import ArtifactError, ConfigError
from feature_repo.contract.tables import TableFile, TableForm, Tables

ITEMS = np.array([[0, 0], [1, 10], [2, 20], [4, 40]], np.float32)
AGES = np.array([[9], [8]], np.float32)
TABLES = Tables(
    {"item_id": TableFile(ITEMS), "age_band": TableFile(AGES)},
    {"item_id": "item_id", "history_item_id": "item_id", "age_band": "age_band"},
)


def bag(values: list[int], offsets: list[int], weights: list[float] | None = None) -> Bag:
    weighed = None if weights is None else np.array(weights, np.float32)
    return Bag(np.array(values, np.int64), np.array(offsets, np.int64), weighed)


def test_a_bag_is_the_sum_of_its_rows() -> None:
    pooled = TABLES.pooled("history_item_id", bag([1, 3, 2], [0, 2, 3]))

    np.testing.assert_array_equal(pooled, [[1 + 4, 10 + 40], [2, 20]])
    assert pooled.dtype == np.float32


def test_weights_multiply_the_rows() -> None:
    pooled = TABLES.pooled("history_item_id", bag([1, 3, 2], [0, 2, 3], [0.5, 2.0, -1.0]))

    np.testing.assert_array_equal(pooled, [[0.5 * 1 + 2 * 4, 0.5 * 10 + 2 * 40], [-2, -20]])


@pytest.mark.parametrize("offsets", [[0, 0, 1, 1, 3, 3], [0, 1, 1, 1, 2, 3]])
def test_an_empty_bag_is_zero_wherever_it_stands(offsets: list[int]) -> None:
    values = [1, 2, 3]

    pooled = TABLES.pooled("item_id", bag(values, offsets))

    for user in range(5):
        expected = ITEMS[values[offsets[user] : offsets[user + 1]]].sum(axis=0)
        np.testing.assert_array_equal(pooled[user], expected)


def test_single_rows_are_looked_up() -> None:
    pooled = TABLES.pooled("age_band", Bag.single(np.array([1, 0, 1])))

    np.testing.assert_array_equal(pooled, [[8], [9], [8]])


def test_no_bag_has_no_rows() -> None:
    assert TABLES.pooled("item_id", bag([], [0])).shape == (0, 2)
    np.testing.assert_array_equal(TABLES.pooled("item_id", bag([], [0, 0])), [[0, 0]])


def test_looking_up_leaves_the_table_as_it_was() -> None:
    before = ITEMS.copy()
    TABLES.pooled("item_id", bag([1], [0, 1], [5.0]))

    np.testing.assert_array_equal(ITEMS, before)


def test_a_row_past_the_end_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"Row 4 of feature history_item_id .* table of 4 rows"):
        TABLES.pooled("history_item_id", bag([4], [0, 1]))


def test_dim_is_that_of_the_features_table() -> None:
    assert (TABLES.dim("history_item_id"), TABLES.dim("age_band")) == (2, 1)


def reference(
    table: npt.NDArray[np.float32], bags: list[list[int]], weights: list[float]
) -> npt.NDArray[np.float64]:
    """The definition, one row at a time."""
    pooled = np.zeros((len(bags), table.shape[1]))
    entry = 0
    for user, rows in enumerate(bags):
        for row in rows:
            pooled[user] += weights[entry] * table[row].astype(np.float64)
            entry += 1
    return pooled


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), max_size=6), st.data())
def test_pooling_is_a_weighted_sum(bags: list[list[int]], data: st.DataObject) -> None:
    table = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    count = sum(len(rows) for rows in bags)
    weights = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=count, max_size=count))
    offsets = np.cumsum([0, *(len(rows) for rows in bags)])
    flat = [row for rows in bags for row in rows]

    pooled = Tables({"t": TableFile(table)}, {"f": "t"}).pooled(
        "f", bag(flat, offsets.tolist(), weights)
    )

    np.testing.assert_allclose(pooled, reference(table, bags, weights), atol=1e-5)


def save(folder: Path, form: TableForm) -> None:
    """Write ``TABLES`` in parts, as each process writes its own rows."""
    for name, table in TABLES.tables.items():
        file = TableFile.create(folder, name, len(table), table.dim, form)
        file.write(2, 0, table.values[2:])
        file.write(0, 0, table.values[:2])
        file.flush()
    write_json(folder / "tables.json", dict(TABLES.table_of))


@pytest.mark.parametrize("form", [TableForm.fp32, TableForm.fp16])
def test_saved_tables_come_back_equal(tmp_path: Path, form: TableForm) -> None:
    save(tmp_path, form)

    loaded = Tables.load(tmp_path)

    assert loaded.table_of == TABLES.table_of
    for name, table in TABLES.tables.items():
        assert loaded.tables[name].values.dtype == np.dtype(form.value.replace("fp", "float"))
        np.testing.assert_array_equal(loaded.tables[name].values, table.values)
    pooled = loaded.pooled("item_id", bag([1, 3], [0, 2], [0.5, 2.0]))
    np.testing.assert_array_equal(pooled, [[0.5 * 1 + 2 * 4, 0.5 * 10 + 2 * 40]])


def test_int8_keeps_each_value_to_half_a_step_of_its_row(tmp_path: Path) -> None:
    save(tmp_path, TableForm.int8)

    loaded = Tables.load(tmp_path).tables["item_id"]

    assert loaded.values.dtype == np.int8
    steps = ITEMS.max(axis=1, keepdims=True) / 127
    assert (np.abs(loaded.rows(np.arange(4)) - ITEMS) <= steps / 2 + 1e-6).all()
    assert loaded.rows(np.array([0])).tolist() == [[0.0, 0.0]]


def test_int8_takes_no_part_of_a_row(tmp_path: Path) -> None:
    file = TableFile.create(tmp_path, "item_id", 4, 2, TableForm.int8)

    with pytest.raises(ConfigError, match="int8 needs all 2 columns"):
        file.write(0, 1, ITEMS[:, 1:])


def test_a_missing_or_truncated_table_is_refused(tmp_path: Path) -> None:
    save(tmp_path, TableForm.fp32)
    path = tmp_path / "item_id.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="lacks a whole table"):
        Tables.load(tmp_path)

    path.unlink()
    with pytest.raises(ArtifactError, match="lacks a whole table"):
        Tables.load(tmp_path)
