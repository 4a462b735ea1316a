from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract import vocabulary
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.vocabulary import Vocabulary, hash_strings

INT64 = st.integers(-(2**63), 2**63 - 1)
IDS = {IdType.INT64: st.lists(INT64), IdType.STRING: st.lists(st.text(max_size=8))}
EITHER: Any = st.sampled_from(IdType).flatmap(lambda kind: st.tuples(st.just(kind), IDS[kind]))


def test_rows_begin_at_one_in_the_order_of_the_ids() -> None:
    found = Vocabulary.build([30, 10, 20, 10], IdType.INT64)

    assert (len(found), found.num_rows) == (3, 4)
    assert found.rows([10, 20, 30]).tolist() == [1, 2, 3]
    assert found.ids_of(np.array([3, 1])) == [30, 10]


def test_unknown_ids_and_null_have_row_zero() -> None:
    assert Vocabulary.build([10], IdType.INT64).rows([11, None, 10]).tolist() == [0, 0, 1]
    assert Vocabulary.build(["a"], IdType.STRING).rows(["b", None, "a"]).tolist() == [0, 0, 1]


def test_null_is_not_the_empty_string_nor_zero() -> None:
    assert Vocabulary.build([""], IdType.STRING).rows([None, ""]).tolist() == [0, 1]
    assert Vocabulary.build([0], IdType.INT64).rows([None, 0]).tolist() == [0, 1]


@given(EITHER, st.data())
def test_rows_and_ids_are_inverse(kind_and_ids: tuple[IdType, list[Any]], data: Any) -> None:
    kind, ids = kind_and_ids
    found = Vocabulary.build(pa.array(ids, vocabulary.id_arrow_type(kind)), kind)

    rows = np.arange(1, found.num_rows, dtype=np.int64)
    assert found.rows(pa.array(found.ids_of(rows), found.ids.type)).tolist() == rows.tolist()
    assert sorted(found.ids_of(rows)) == sorted(set(ids))

    asked = data.draw(IDS[kind])
    known = found.rows(pa.array(asked, found.ids.type)) > 0
    assert known.tolist() == [entry in set(ids) for entry in asked]


@given(EITHER, st.data())
def test_known_ids_keep_their_rows_when_the_vocabulary_grows(
    kind_and_ids: tuple[IdType, list[Any]], data: Any
) -> None:
    kind, ids = kind_and_ids
    arrow = vocabulary.id_arrow_type(kind)
    base = Vocabulary.build(pa.array(ids, arrow), kind)
    more = data.draw(IDS[kind])

    grown = Vocabulary.build(pa.array(more, arrow), kind, base)

    np.testing.assert_array_equal(grown.rows(base.ids), base.rows(base.ids))
    assert len(grown) == len({*ids, *more})
    assert (grown.rows(pa.array(more, arrow)) > 0).all()


def test_ids_may_be_chunked_or_of_another_width() -> None:
    chunked = pa.chunked_array([[3, 1], [2]], type=pa.int32())

    assert Vocabulary.build(chunked, IdType.INT64).ids.to_pylist() == [1, 2, 3]


def test_integers_become_strings_where_ids_are_strings() -> None:
    assert Vocabulary.build([7, 8], IdType.STRING).rows(["7", "9"]).tolist() == [1, 0]


@pytest.mark.parametrize(("ids", "kind"), [(["x"], IdType.INT64), ([[1]], IdType.INT64)])
def test_ids_of_a_wrong_type_are_refused(ids: list[Any], kind: IdType) -> None:
    with pytest.raises(BadInput, match="cannot be read as int64"):
        Vocabulary.build(ids, kind)
    with pytest.raises(BadInput, match="cannot be read as int64"):
        Vocabulary.build([1], kind).rows(ids)


def test_a_null_id_is_refused() -> None:
    with pytest.raises(BadInput, match="An id is null"):
        Vocabulary.build([1, None], IdType.INT64)


@pytest.mark.parametrize("rows", [[0], [3], [-1], [1, 3]])
def test_rows_without_an_id_are_refused(rows: list[int]) -> None:
    with pytest.raises(BadInput, match=r"Rows must be in 1\.\.2"):
        Vocabulary.build([5, 6], IdType.INT64).ids_of(np.array(rows))


def test_an_empty_vocabulary_knows_nothing(tmp_path: Path) -> None:
    empty = Vocabulary.build(pa.array([], pa.string()), IdType.STRING)
    empty.save(tmp_path / "users")

    for found in (empty, Vocabulary.load(tmp_path / "users", IdType.STRING)):
        assert (len(found), found.num_rows) == (0, 1)
        assert found.rows(["a", None]).tolist() == [0, 0]
        assert found.ids_of(np.zeros(0, np.int64)) == []


def test_strings_are_hashed_by_the_first_half_of_murmur3() -> None:
    expected = [mmh3.hash64(text, signed=False)[0] for text in ("milk", "")]

    assert hash_strings(pa.array(["milk", None])).tolist() == expected


def test_two_strings_of_one_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(values: pa.Array) -> npt.NDArray[np.uint64]:
        return np.full(len(values), 7, np.uint64)

    monkeypatch.setattr(vocabulary, "hash_strings", same)

    with pytest.raises(BadInput, match="Ids 'a' and 'b' have one 64-bit key"):
        Vocabulary.build(["a", "b"], IdType.STRING)


@settings(max_examples=15)
@given(EITHER)
def test_a_saved_vocabulary_comes_back_equal(kind_and_ids: tuple[IdType, list[Any]]) -> None:
    kind, ids = kind_and_ids
    found = Vocabulary.build(pa.array(ids, vocabulary.id_arrow_type(kind)), kind)
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "v")
        loaded = Vocabulary.load(Path(folder) / "v", kind)

        assert loaded.ids.equals(found.ids)
        np.testing.assert_array_equal(loaded.rows(found.ids), found.rows(found.ids))


def test_loading_maps_the_keys_instead_of_reading_them(tmp_path: Path) -> None:
    Vocabulary.build([1, 2], IdType.INT64).save(tmp_path / "v")

    assert isinstance(Vocabulary.load(tmp_path / "v", IdType.INT64).keys, np.memmap)


def test_another_id_type_is_refused(tmp_path: Path) -> None:
    Vocabulary.build([1, 2], IdType.INT64).save(tmp_path / "v")

    with pytest.raises(ArtifactError, match="ids of type int64; expected string"):
        Vocabulary.load(tmp_path / "v", IdType.STRING)


@pytest.mark.parametrize("name", ["keys.npy", "rows.npy", "ids.arrow"])
def test_a_missing_or_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "v"
    Vocabulary.build(list(range(100)), IdType.INT64).save(folder)
    whole = (folder / name).read_bytes()

    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"v"):
        Vocabulary.load(folder, IdType.INT64)

    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=r"v"):
        Vocabulary.load(folder, IdType.INT64)


@given(st.lists(st.integers(-40, 40)), st.lists(st.integers(-(2**63), 2**63 - 1) | INT64))
def test_ids_that_lie_close_are_found_by_their_value(ids: list[int], asked: list[int]) -> None:
    found = Vocabulary.build(pa.array(ids, pa.int64()), IdType.INT64)
    asked = [*asked, *range(-45, 45)]

    rows = found.rows(pa.array(asked, pa.int64()))

    known = {entry: place for place, entry in enumerate(sorted(set(ids)), start=1)}
    assert rows.tolist() == [known.get(entry, 0) for entry in asked]
