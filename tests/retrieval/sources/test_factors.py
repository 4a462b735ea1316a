"""Users and items as vectors, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from feature_repo.contract.state import Histories
from retrieval.sources import FactorSource, UserBatch, load_source

USERS = np.array([[0, 0], [1, 0]], dtype=np.float32)
ITEMS = np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.25], [2, 2]], dtype=np.float32)


def users(*histories: list[int], rows: list[int]) -> UserBatch:
    """Users by their vocabulary rows and histories."""
    values = np.array([row for history in histories for row in history], dtype=np.int64)
    ones = np.ones(len(values), np.float32)
    times = np.zeros(len(values), np.int64)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    made = Histories(offsets, values, ones, ones, times, times, ones, ones)
    return UserBatch(made, np.zeros(len(rows), np.int64), user_row=np.array(rows))


def test_a_known_user_has_the_vector_of_the_table() -> None:
    top = FactorSource("mf", USERS, ITEMS, ITEMS).top(users([], rows=[1]), 3)

    assert top.item_row.tolist() == [[4, 1, 3]]
    assert top.score.tolist() == [[2.0, 1.0, 0.5]]


def test_a_stranger_is_the_sum_of_what_was_bought() -> None:
    source = FactorSource("mf", USERS, ITEMS, ITEMS, new_only=True)

    top = source.top(users([2, 3], rows=[0]), 2)

    assert top.item_row.tolist() == [[4, 1]]
    assert top.score.tolist() == [[2 * 0.5 + 2 * 1.25, 0.5]]


def test_a_stranger_without_a_history_has_no_candidates() -> None:
    top = FactorSource("mf", USERS, ITEMS, ITEMS).top(users([], rows=[0]), 2)

    assert top.item_row.tolist() == [[0, 0]]
    assert np.isnan(top.score).all()


def test_the_vectors_are_read_back(tmp_path: Path) -> None:
    source = FactorSource("mf", USERS, ITEMS, ITEMS * 2, new_only=True)
    source.save(tmp_path / "sources" / "mf")

    found = load_source(tmp_path, "mf", source.about)

    assert isinstance(found, FactorSource)
    np.testing.assert_array_equal(found.fold_in, ITEMS * 2)
    assert found.new_only
