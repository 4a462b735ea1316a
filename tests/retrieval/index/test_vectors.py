"""Vectors in parts: the same rows as in one piece, and which are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from retrieval.index.vectors import ItemVectors, recall
from tests.retrieval.index.made import clustered, exact


def test_parts_hold_the_rows_of_the_whole(tmp_path: Path) -> None:
    whole = clustered(50)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    np.save(paths[0], whole[:20])
    np.save(paths[1], whole[20:])

    parts = ItemVectors.of(paths)

    assert parts.num_items == 50
    assert parts.take(np.array([19, 0, 20, 50])).tolist() == whole[[19, 0, 20, 50]].tolist()
    chunks = list(parts.chunks(16))
    assert [first for first, _ in chunks] == [1, 17, 33, 49]
    assert np.concatenate([chunk for _, chunk in chunks]).tolist() == whole[1:].tolist()


def test_the_nearest_are_those_of_a_full_product() -> None:
    items, users = clustered(70_000, 8), clustered(5, 8, seed=1)

    found = ItemVectors.of(items).nearest(users, 10)

    assert found.tolist() == exact(items, users, 10).tolist()


def test_recall_is_the_share_of_the_exact_items() -> None:
    found, nearest = np.array([[1, 2, 3, 0], [9, 8, 7, 6]]), np.array([[1, 2, 3, 4], [1, 2, 3, 4]])

    assert recall(found, nearest).tolist() == [3 / 4, 0 / 4]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.0, "vector of item row 3 is zero"),
        (np.nan, "vector of item row 3 holds NaN"),
        (np.inf, "vector of item row 3 holds NaN or an infinity"),
    ],
)
def test_vectors_without_a_direction_are_refused(value: float, sentence: str) -> None:
    items = clustered(5)
    items[3] = value

    with pytest.raises(BadInput, match=sentence):
        ItemVectors.of(items).check(lambda row: f"item row {row}")


def test_parts_of_different_widths_are_refused() -> None:
    with pytest.raises(BadInput, match=r"one width; got \[\(3, 4\), \(3, 5\)\]"):
        ItemVectors((np.zeros((3, 4)), np.zeros((3, 5))))
