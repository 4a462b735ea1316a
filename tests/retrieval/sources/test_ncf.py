"""Neural matrix factorisation as a source, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.state import Histories
from retrieval.sources import NcfSource, UserBatch, load_source, ncf
from retrieval.sources.ncf import Layer


def floats(*rows: list[float]) -> np.ndarray:
    """A small float32 table."""
    return np.array(rows, dtype=np.float32)


SOURCE = NcfSource(
    "ncf",
    user_vectors=floats([0], [1]),
    item_vectors=floats([9], [2], [-1], [0.5]),
    user_hidden=floats([1, 0], [0, -1]),
    item_hidden=floats([9, 9], [1, 2], [2, 0], [-3, 4]),
    layers=(
        Layer(floats([1, -1], [1, 2]), np.array([0, 0.5], np.float32)),
        Layer(floats([2], [3]), np.array([0.25], np.float32)),
    ),
)
"""Two users, the first of which is the unknown one; three items beside the unknown one."""


def network(first: float, second: float) -> float:
    """The layers of ``SOURCE``, from the sum of both parts of the first hidden layer."""
    first, second = max(first, 0), max(second, 0)
    return 2 * max(first + second, 0) + 3 * max(-first + 2 * second + 0.5, 0) + 0.25


KNOWN = [
    1 * 2 + network(0 + 1, -1 + 2),
    1 * -1 + network(0 + 2, -1 + 0),
    1 * 0.5 + network(0 - 3, -1 + 4),
]
"""Logits of the known user for the items of rows 1, 2 and 3."""
UNKNOWN = [network(1 + 1, 0 + 2), network(1 + 2, 0 + 0), network(1 - 3, 0 + 4)]


def users(*histories: list[int], rows: list[int] | None) -> UserBatch:
    """Users by their vocabulary rows and histories."""
    values = np.array([row for history in histories for row in history], dtype=np.int64)
    ones = np.ones(len(values), np.float32)
    times = np.zeros(len(values), np.int64)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    made = Histories(offsets, values, ones, ones, times, times, ones, ones)
    row = None if rows is None else np.array(rows, dtype=np.int64)
    return UserBatch(made, np.zeros(len(histories), np.int64), user_row=row)


def test_given_items_have_the_logits_of_the_network() -> None:
    offsets, items = np.array([0, 3, 4]), np.array([1, 2, 3, 3])

    found = SOURCE.score(users([], [], rows=[1, 0]), offsets, items)

    assert found.tolist() == pytest.approx([*KNOWN, UNKNOWN[2]])


def test_the_best_items_are_those_of_the_largest_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf, "PAIRS", 3)  # the items are two blocks

    top = SOURCE.top(users([], rows=[1]), 2)

    order = np.argsort(KNOWN)[::-1][:2]
    assert top.item_row.tolist() == [(order + 1).tolist()]
    assert top.score[0].tolist() == pytest.approx(np.array(KNOWN)[order].tolist())


def test_items_of_the_history_are_left_out_and_places_stay_empty() -> None:
    source = NcfSource(**{**vars(SOURCE), "new_only": True})

    top = source.top(users([3], rows=[1]), 3)

    assert sorted(top.item_row[0].tolist()) == [0, 1, 2]
    assert top.item_row[0, 2] == 0
    assert np.isnan(top.score[0, 2])


def test_a_user_without_a_row_is_the_unknown_one() -> None:
    top = SOURCE.top(users([], rows=None), 1)

    assert top.item_row.tolist() == [[1 + int(np.argmax(UNKNOWN))]]


def test_tables_and_layers_are_read_back(tmp_path: Path) -> None:
    SOURCE.save(tmp_path / "sources" / "ncf")

    found = load_source(tmp_path, "ncf", SOURCE.about)

    assert isinstance(found, NcfSource)
    rows = np.array([0, 1, 1]), np.array([1, 2, 3])
    np.testing.assert_array_equal(found.logits(*rows), SOURCE.logits(*rows))
    assert not found.new_only
