"""Lists of segments, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.contract.state import Histories
from retrieval.sources import SegmentPopularSource, UserBatch, load_source

ROWS = np.array([[5, 2, 8], [2, 8, 0], [8, 5, 2]], dtype=np.int64)
SCORES = np.array([[0.9, 0.4, 0.1], [0.7, 0.2, 0.0], [0.6, 0.5, 0.3]], dtype=np.float32)


def users(*histories: list[int], ages: list[str | None] | None) -> UserBatch:
    """Users by their histories and their age bands."""
    values = np.array([row for history in histories for row in history], dtype=np.int64)
    ones = np.ones(len(values), np.float32)
    times = np.zeros(len(values), np.int64)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    made = Histories(offsets, values, ones, ones, times, times, ones, ones)
    features = None if ages is None else pa.table({"age_band": pa.array(ages, pa.string())})
    return UserBatch(made, np.zeros(len(histories), np.int64), features=features)


def segments(new_only: bool = False) -> SegmentPopularSource:
    return SegmentPopularSource("young", "age_band", ("19-24", "65+"), ROWS, SCORES, new_only)


def test_a_user_gets_the_list_of_the_own_segment() -> None:
    top = segments().top(users([], [], ages=["65+", "19-24"]), 3)

    assert top.item_row.tolist() == [[8, 5, 2], [2, 8, 0]]
    assert top.score[0].tolist() == SCORES[2].tolist()


def test_users_of_no_known_segment_get_everybodys_list() -> None:
    top = segments().top(users([], [], ages=[None, "45-54"]), 2)

    assert top.item_row.tolist() == [[5, 2], [5, 2]]


def test_without_user_features_everybody_gets_everybodys_list() -> None:
    assert segments().top(users([], ages=None), 1).item_row.tolist() == [[5]]


def test_what_is_known_is_left_out_and_the_next_move_up() -> None:
    top = segments(new_only=True).top(users([8], ages=["65+"]), 2)

    assert top.item_row.tolist() == [[5, 2]]


def test_items_are_scored_by_the_users_segment() -> None:
    scores = segments().score(
        users([], [], ages=["65+", "19-24"]), np.array([0, 2, 4]), np.array([8, 7, 5, 2])
    )

    np.testing.assert_array_equal(scores, np.array([0.6, np.nan, np.nan, 0.7], np.float32))


def test_the_lists_are_read_back(tmp_path: Path) -> None:
    source = segments(new_only=True)
    source.save(tmp_path / "sources" / "young")

    found = load_source(tmp_path, "young", source.about)

    batch = users([8], ages=["65+"])
    assert found.top(batch, 3).item_row.tolist() == source.top(batch, 3).item_row.tolist()
