from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import IdType
from feature_repo.contract.encoding import (
    Bag,
    Encoded,
    Encoder,
    Quantiles,
    TableSpec,
    categorical_rows,
    moment_rows,
    numeric_values,
    query_times_s,
)
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import (
    Derive,
    Encoding,
    Entity,
    Feature,
    Schema,
    context_feature,
)
from feature_repo.contract.vocabulary import Vocabulary, hash_strings

NAN = math.nan
NOW = datetime(2017, 11, 27, 5, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
DAY = 86_400
TIME = pa.timestamp("us", tz="UTC")


def floats(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


# ---- bags


def bag(lists: list[list[int]], *, weighted: bool = False) -> Bag:
    flat = np.array([value for values in lists for value in values], np.int64)
    offsets = np.cumsum([0, *(len(values) for values in lists)], dtype=np.int64)
    return Bag(flat, offsets, (flat / 2).astype(np.float32) if weighted else None)


def lists_of(found: Bag) -> list[list[int]]:
    parts = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [found.values[start:stop].tolist() for start, stop in parts]


LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6)


def test_single_rows_are_bags_of_one() -> None:
    assert lists_of(Bag.single(np.array([4, 0, 4]))) == [[4], [0], [4]]


@given(LISTS, st.booleans(), st.data())
def test_taking_bags_is_indexing_lists(
    lists: list[list[int]], weighted: bool, data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))

    taken = bag(lists, weighted=weighted).take(np.array(index, np.int64))

    assert lists_of(taken) == [lists[place] for place in index]
    if weighted:
        np.testing.assert_array_equal(taken.weights, taken.values / 2)


@given(LISTS, st.booleans(), st.integers(0, 6))
def test_the_head_of_bags_is_that_of_lists(
    lists: list[list[int]], weighted: bool, length: int
) -> None:
    head = bag(lists, weighted=weighted).head(length)

    assert lists_of(head) == [values[:length] for values in lists]
    if weighted:
        np.testing.assert_array_equal(head.weights, head.values / 2)


def test_taking_examples_takes_bags_and_dense_values() -> None:
    encoded = Encoded({"a": bag([[1], [2, 3]])}, np.array([[0.5], [-0.5]], np.float32))

    taken = encoded.take(np.array([1, 1, 0]))

    assert len(taken) == 3
    assert lists_of(taken.bags["a"]) == [[2, 3], [2, 3], [1]]
    assert taken.dense.tolist() == [[-0.5], [-0.5], [0.5]]


# ---- quantiles


def test_cut_points_are_quantiles_of_the_finite_values() -> None:
    values = [*range(101), NAN, math.inf]

    edges = Quantiles.fit({"x": values}, {"x": 6}).edges["x"]

    np.testing.assert_allclose(edges, [20, 40, 60, 80])


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1),
    st.integers(2, 20),
    st.lists(st.floats(-1e7, 1e7, width=32)),
)
def test_every_bucket_is_a_row_of_the_table(
    values: list[float], buckets: int, asked: list[float]
) -> None:
    quantiles = Quantiles.fit({"x": values}, {"x": buckets})

    rows = quantiles.bucket("x", floats(*asked, *values, NAN))

    assert rows[-1] == 0
    assert rows[:-1].min() >= 1
    assert rows.max() < buckets


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2), st.integers(2, 20))
def test_buckets_and_ranks_rise_with_the_value(values: list[float], buckets: int) -> None:
    quantiles = Quantiles.fit({"x": values}, {"x": buckets})
    ordered = floats(*sorted(values))

    ranks = quantiles.rank("x", ordered)

    assert (np.diff(quantiles.bucket("x", ordered)) >= 0).all()
    assert (np.diff(ranks) >= 0).all()
    assert np.abs(ranks).max() <= 1


def test_a_value_at_a_cut_point_belongs_below_it() -> None:
    quantiles = Quantiles({"x": floats(10, 20)})

    rows = quantiles.bucket("x", floats(-5, 10, 10.5, 20, 21, NAN))

    assert rows.tolist() == [1, 1, 2, 2, 3, 0]


def test_the_rank_is_the_place_between_the_cut_points() -> None:
    quantiles = Quantiles({"x": floats(0, 10, 30)})

    ranks = quantiles.rank("x", floats(-5, 0, 5, 10, 20, 30, 99, NAN))

    np.testing.assert_allclose(ranks, [-1, -1, -1 / 2, 0, 1 / 2, 1, 1, 0])


def test_equal_cut_points_are_merged() -> None:
    edges = Quantiles.fit({"x": [5.0] * 99 + [7.0]}, {"x": 16}).edges["x"]

    assert edges.tolist() == [5.0]


def test_a_column_without_a_value_has_one_bucket_and_no_rank() -> None:
    quantiles = Quantiles.fit({"x": [NAN, NAN]}, {"x": 16})

    assert quantiles.edges["x"].tolist() == []
    assert quantiles.bucket("x", floats(3, NAN)).tolist() == [1, 0]
    assert quantiles.rank("x", floats(3, NAN)).tolist() == [0, 0]


# ---- columns


def test_categories_are_hashed_past_the_row_of_missing_ones() -> None:
    rows = categorical_rows(pa.array(["tea", None, "milk", "tea"]), 64)

    keys = hash_strings(pa.array(["tea", "milk"]))
    tea, milk = (int(key % 63) + 1 for key in keys.tolist())
    assert rows.tolist() == [tea, 0, milk, tea]


@given(st.lists(st.none() | st.text(max_size=5)), st.integers(2, 50))
def test_categories_stay_in_their_table(values: list[str | None], buckets: int) -> None:
    rows = categorical_rows(pa.array(values, pa.string()), buckets)

    assert [row == 0 for row in rows] == [value is None for value in values]
    assert rows.max(initial=0) < buckets


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", None]).dictionary_encode(),
        pa.array(["7", None], pa.large_string()),
        pa.array([7, None]),
    ],
)
def test_categories_of_any_type_hash_as_their_text(column: pa.Array) -> None:
    assert (
        categorical_rows(column, 64).tolist()
        == categorical_rows(pa.array(["7", None]), 64).tolist()
    )


def test_a_column_of_nulls_is_missing_everywhere() -> None:
    assert categorical_rows(pa.nulls(3), 64).tolist() == [0, 0, 0]


def feature(name: str, encoding: Encoding, entity: Entity = Entity.USER, **more: Any) -> Feature:
    return Feature(name, entity, "view", "dtype", encoding, **more)


PRICE = feature("price", Encoding.NUMERIC, Entity.ITEM, buckets=3)
SINCE = feature("last_s", Encoding.NUMERIC, buckets=3, derive=Derive.DAYS_SINCE)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([2, None]), [2, NAN]),
        (pa.array([0.5, None], pa.float32()), [0.5, NAN]),
        (pa.array([True, False]), [1, 0]),
        (pa.nulls(2), [NAN, NAN]),
        (pa.array([1.5, NAN]), [1.5, NAN]),
    ],
)
def test_numbers_are_read_with_nan_where_missing(column: pa.Array, expected: list[float]) -> None:
    values = numeric_values(pa.table({"price": column}), PRICE, np.zeros(2, np.int64))

    np.testing.assert_array_equal(values, expected)


def test_times_become_days_before_now() -> None:
    table = pa.table({"last_s": pa.array([NOW_S - 3 * DAY, NOW_S, None])})

    values = numeric_values(table, SINCE, np.array([NOW_S, NOW_S + DAY // 2, NOW_S]))

    np.testing.assert_array_equal(values, [3, 0.5, NAN])


@given(seconds=st.integers(0, 4_000_000_000))
def test_hours_and_weekdays_are_those_of_the_calendar(seconds: int) -> None:
    moment, now = datetime.fromtimestamp(seconds, UTC), np.array([seconds])

    assert moment_rows(Derive.HOUR, now).tolist() == [moment.hour + 1]
    assert moment_rows(Derive.WEEKDAY, now).tolist() == [moment.weekday() + 1]


def test_text_in_a_numeric_column_is_refused() -> None:
    with pytest.raises(BadInput, match="Feature price must be numbers"):
        numeric_values(pa.table({"price": ["dear"]}), PRICE, np.zeros(1, np.int64))


def test_a_query_just_before_a_second_is_of_that_second() -> None:
    times = [NOW, NOW - timedelta(microseconds=1), NOW - timedelta(seconds=1)]
    table = pa.table({"event_timestamp": pa.array(times, TIME)})

    assert query_times_s(table).tolist() == [NOW_S, NOW_S, NOW_S - 1]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadInput, match=r"lack the column 'price'; they have \['x'\]"):
        column_of(pa.table({"x": [1]}), "price")


# ---- the encoder

SCHEMA = Schema(
    "ranking_v1",
    (
        feature("region", Encoding.CATEGORICAL, buckets=8),
        feature("spend", Encoding.NUMERIC, buckets=5),
        SINCE,
        feature("history_item_id", Encoding.BAG, bag_of="item_id", bag_weight="history_weight"),
        feature("history_weight", Encoding.STATE),
        feature("friends", Encoding.BAG, bag_of="user_id"),
        feature("brand", Encoding.CATEGORICAL, Entity.ITEM, buckets=16),
        PRICE,
        feature("title", Encoding.NONE, Entity.ITEM),
    ),
)
USER_ROWS = pa.table(
    {
        "user_id": ["ann", "bob", "eve"],
        "event_timestamp": pa.array([NOW - timedelta(microseconds=1)] * 3, TIME),
        "region": ["north", None, "south"],
        "spend": pa.array([0.0, 50.0, 100.0], pa.float32()),
        "last_s": pa.array([NOW_S - DAY, NOW_S - 5 * DAY, None]),
        "history_item_id": pa.array([[20, 10, 99], None, [10]], pa.list_(pa.int64())),
        "history_weight": pa.array([[2.0, 1.0, 0.5], None, [3.0]], pa.list_(pa.float32())),
        "friends": pa.array([["bob"], [], ["ann", "bob"]]),
        "unused": [1, 2, 3],
    }
)
ITEM_ROWS = pa.table(
    {
        "item_id": [10, 20],
        "event_timestamp": pa.array([NOW] * 2, TIME),
        "brand": ["acme", None],
        "price": pa.array([1.0, None], pa.float32()),
        "title": ["Tea", "Milk"],
    }
)


def encoder(history_length: int = 50) -> Encoder:
    users = Vocabulary.build(["ann", "bob"], IdType.STRING)
    items = Vocabulary.build([10, 20], IdType.INT64)
    return Encoder.fit(SCHEMA, users, items, USER_ROWS, ITEM_ROWS, history_length)


def test_fitting_finds_the_quantiles_of_numeric_features_of_both_entities() -> None:
    edges = encoder().quantiles.edges

    assert sorted(edges) == ["last_s", "price", "spend"]
    np.testing.assert_allclose(edges["spend"], [25, 50, 75])
    np.testing.assert_allclose(edges["last_s"], [3])  # half-way between 1 and 5 days


def test_users_are_encoded_by_hand() -> None:
    encoded = encoder().encode(USER_ROWS, Entity.USER)

    assert len(encoded) == 3
    assert lists_of(encoded.bags["user_id"]) == [[1], [2], [0]]
    north, _, south = categorical_rows(USER_ROWS["region"].combine_chunks(), 8)
    assert lists_of(encoded.bags["region"]) == [[north], [0], [south]]
    assert lists_of(encoded.bags["spend"]) == [[1], [2], [4]]
    assert lists_of(encoded.bags["last_s"]) == [[1], [2], [0]]
    assert lists_of(encoded.bags["history_item_id"]) == [[2, 1, 0], [], [1]]
    assert encoded.bags["history_item_id"].weights is not None
    assert encoded.bags["history_item_id"].weights.tolist() == [2.0, 1.0, 0.5, 3.0]
    assert lists_of(encoded.bags["friends"]) == [[2], [], [1, 2]]
    assert encoded.bags["friends"].weights is None
    assert encoded.dense.tolist() == [[-1, 0], [0, 0], [1, 0]]


def test_items_are_encoded_by_hand() -> None:
    encoded = encoder().encode(ITEM_ROWS, Entity.ITEM)

    assert sorted(encoded.bags) == ["brand", "item_id", "price"]
    assert lists_of(encoded.bags["item_id"]) == [[1], [2]]
    assert lists_of(encoded.bags["price"]) == [[1], [0]]
    assert encoded.dense.shape == (2, 1)


def test_a_feature_of_the_request_needs_no_column() -> None:
    moments = [context_feature(derive) for derive in (Derive.HOUR, Derive.WEEKDAY)]
    with_context = replace(encoder(), schema=SCHEMA.extended(moments))

    found = with_context.encode(USER_ROWS, Entity.USER)

    assert with_context.keys(Entity.USER)[-2:] == ("request_hour", "request_weekday")
    assert with_context.schema.stored == SCHEMA
    assert found.bags["request_hour"].values.tolist() == [NOW.hour + 1] * 3
    assert found.bags["request_weekday"].values.tolist() == [NOW.weekday() + 1] * 3
    sizes = {table.name: table.num_rows for table in with_context.tables()}
    assert (sizes["request_hour"], sizes["request_weekday"]) == (24 + 1, 7 + 1)


def test_keys_and_dense_names_are_what_encode_makes() -> None:
    found = encoder()

    for entity, rows in ((Entity.USER, USER_ROWS), (Entity.ITEM, ITEM_ROWS)):
        encoded = found.encode(rows, entity)
        assert list(encoded.bags) == list(found.keys(entity))
        assert encoded.dense.shape[1] == len(found.dense_names(entity))
    assert found.dense_names(Entity.USER) == ("spend", "last_s")


def test_every_row_is_inside_its_table() -> None:
    found = encoder()
    sizes = {name: spec.num_rows for spec in found.tables() for name in spec.features}

    for entity, rows in ((Entity.USER, USER_ROWS), (Entity.ITEM, ITEM_ROWS)):
        for name, encoded in found.encode(rows, entity).bags.items():
            assert encoded.values.max(initial=0) < sizes[name]


def test_tables_come_ids_first_and_bags_share_the_table_of_their_ids() -> None:
    assert encoder().tables() == (
        TableSpec("user_id", 3, ("user_id", "friends")),
        TableSpec("item_id", 3, ("item_id", "history_item_id")),
        TableSpec("region", 8, ("region",)),
        TableSpec("spend", 5, ("spend",)),
        TableSpec("last_s", 3, ("last_s",)),
        TableSpec("brand", 16, ("brand",)),
        TableSpec("price", 3, ("price",)),
    )


def test_now_may_be_given_in_place_of_the_rows_time() -> None:
    later = np.full(3, NOW_S + 10 * DAY, np.int64)

    encoded = encoder().encode(USER_ROWS.drop_columns("event_timestamp"), Entity.USER, later)

    assert lists_of(encoded.bags["last_s"]) == [[2], [2], [0]]


def test_only_the_first_entries_of_a_history_are_read() -> None:
    encoded = encoder(history_length=2).encode(USER_ROWS, Entity.USER)

    assert lists_of(encoded.bags["history_item_id"]) == [[2, 1], [], [1]]
    assert encoded.bags["history_item_id"].weights is not None
    assert encoded.bags["history_item_id"].weights.tolist() == [2.0, 1.0, 3.0]


def test_rows_encode_alike_alone_and_together() -> None:
    found = encoder()
    together = found.encode(USER_ROWS, Entity.USER)

    for row in range(3):
        alone = found.encode(USER_ROWS.slice(row, 1), Entity.USER)
        expected = together.take(np.array([row]))
        np.testing.assert_array_equal(alone.dense, expected.dense)
        for name, part in alone.bags.items():
            assert lists_of(part) == lists_of(expected.bags[name])


@pytest.mark.parametrize(
    "name", ["user_id", "region", "spend", "history_item_id", "history_weight", "friends"]
)
def test_a_missing_feature_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=f"lack the column '{name}'"):
        encoder().encode(USER_ROWS.drop_columns(name), Entity.USER)


def test_a_weight_is_needed_for_each_entry_of_a_bag() -> None:
    place = USER_ROWS.column_names.index("history_weight")
    short = pa.array([[2.0, 1.0], None, [3.0, 0.5]], pa.list_(pa.float32()))
    broken = USER_ROWS.set_column(place, "history_weight", short)

    with pytest.raises(BadInput, match="Row 0: history_weight has not as many values"):
        encoder().encode(broken, Entity.USER)


def test_a_saved_encoder_encodes_alike(tmp_path: Path) -> None:
    found = encoder(history_length=2)
    found.save(tmp_path / "encoder")

    loaded = Encoder.load(tmp_path / "encoder")

    assert loaded.schema == SCHEMA
    assert loaded.history_length == 2
    assert loaded.tables() == found.tables()
    for entity, rows in ((Entity.USER, USER_ROWS), (Entity.ITEM, ITEM_ROWS)):
        mine, theirs = found.encode(rows, entity), loaded.encode(rows, entity)
        np.testing.assert_array_equal(mine.dense, theirs.dense)
        for name, part in mine.bags.items():
            assert lists_of(part) == lists_of(theirs.bags[name])


def test_another_kind_of_folder_is_refused(tmp_path: Path) -> None:
    Vocabulary.build([1], IdType.INT64).save(tmp_path / "encoder")

    with pytest.raises(ArtifactError, match="holds a 'vocabulary'; expected 'encoder'"):
        Encoder.load(tmp_path / "encoder")


@pytest.mark.parametrize("name", ["schema.json", "quantiles.json", "users/keys.npy"])
def test_a_missing_part_is_refused(tmp_path: Path, name: str) -> None:
    encoder().save(tmp_path / "encoder")
    (tmp_path / "encoder" / name).unlink()

    with pytest.raises(ArtifactError):
        Encoder.load(tmp_path / "encoder")
