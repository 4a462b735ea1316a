"""Ids of rows: their order, their types, and which are refused."""

from __future__ import annotations

import pytest

from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from retrieval.index.ids import vocabulary_in_order


def test_ids_keep_the_order_they_were_given_in() -> None:
    numbers, names = vocabulary_in_order([30, -5, 2**62]), vocabulary_in_order(["b", "a"])

    assert numbers.rows([-5, 30, 2**62, 1]).tolist() == [2, 1, 3, 0]
    assert names.rows(["a", "b", "c"]).tolist() == [2, 1, 0]
    assert (numbers.id_type, names.id_type) == (IdType.INT64, IdType.STRING)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([4, 9, 4], "Item 4 is given twice"),
        (["shoe", "hat", "shoe"], "Item 'shoe' is given twice"),
        ([1, None], "id is null"),
        ([0.5], "64-bit integers or strings"),
    ],
)
def test_bad_ids_are_refused(ids: list[object], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        vocabulary_in_order(ids)
