"""Lists from scored candidates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.candidates import Candidates
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import BadInput
from feature_repo.contract.vocabulary import Vocabulary
from ranking.policy import main_source, rank_lists, seen_rows, users_of

NAN = np.nan
SCORES = np.array([0.5, 2.0, 1.0, 3.0, -1.0], dtype=np.float32)


@pytest.fixture
def candidates() -> Candidates:
    """Return three users: rows 2, 4, 7 of the first, none of the second, 1, 4 of the third."""
    rank = np.array([[1, NAN], [NAN, 1], [2, 3], [4, 4], [NAN, 2]], dtype=np.float32)
    return Candidates(
        ("buy_again", "popular"),
        np.array([0, 3, 3, 5]),
        np.array([2, 4, 7, 1, 4]),
        np.where(np.isnan(rank), NAN, -rank).astype(np.float32),
        rank,
    )


def test_each_candidate_has_its_user(candidates: Candidates) -> None:
    assert users_of(candidates).tolist() == [0, 0, 0, 2, 2]


def test_the_main_source_places_the_item_best_and_the_first_wins_ties(
    candidates: Candidates,
) -> None:
    assert main_source(candidates).tolist() == [0, 1, 0, 0, 1]


def test_lists_hold_the_best_first_with_their_sources(candidates: Candidates) -> None:
    lists = rank_lists(candidates, SCORES, 2)

    assert lists.item_row.tolist() == [[4, 7], [0, 0], [1, 4]]
    assert lists.score[0].tolist() == [2.0, 1.0]
    assert np.isnan(lists.score[1]).all()
    assert lists.source.tolist() == [[1, 0], [-1, -1], [0, 1]]
    rows, scores, names = lists.of(0)
    assert (rows.tolist(), scores.tolist(), names) == ([4, 7], [2.0, 1.0], ["popular", "buy_again"])


def test_a_short_list_is_padded(candidates: Candidates) -> None:
    lists = rank_lists(candidates, SCORES, 4)

    assert lists.item_row.tolist() == [[4, 7, 2, 0], [0, 0, 0, 0], [1, 4, 0, 0]]
    assert lists.of(1)[2] == []


def test_equal_scores_are_ordered_by_item_row(candidates: Candidates) -> None:
    lists = rank_lists(candidates, np.zeros(5, np.float32), 3)

    assert lists.item_row.tolist() == [[2, 4, 7], [0, 0, 0], [1, 4, 0]]


def test_excluded_items_are_left_out_of_their_own_users_list(candidates: Candidates) -> None:
    nothing = np.zeros(0, np.int64)

    lists = rank_lists(candidates, SCORES, 3, excluded=[np.array([4, 9]), nothing, nothing])

    assert lists.item_row.tolist() == [[7, 2, 0], [0, 0, 0], [1, 4, 0]]


def test_every_filter_must_let_an_item_pass(candidates: Candidates) -> None:
    lists = rank_lists(
        candidates,
        SCORES,
        3,
        filters=[lambda found: found.item_row != 4, lambda found: found.item_row > 1],
    )

    assert lists.item_row.tolist() == [[7, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_scores_that_are_no_numbers_are_refused(candidates: Candidates) -> None:
    scores = SCORES.copy()
    scores[3] = NAN

    with pytest.raises(BadInput, match="candidate 3 is nan"):
        rank_lists(candidates, scores, 3)


def test_too_few_scores_are_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="each of 5 candidates"):
        rank_lists(candidates, SCORES[:4], 3)


def test_exclusions_of_other_users_are_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="of 1 users; expected 3"):
        rank_lists(candidates, SCORES, 3, excluded=[np.array([1])])


def test_a_list_without_places_is_refused(candidates: Candidates) -> None:
    with pytest.raises(BadInput, match="k=0"):
        rank_lists(candidates, SCORES, 0)


def test_seen_items_are_read_from_their_own_list_where_there_is_one() -> None:
    items = Vocabulary.build(pa.array([10, 20, 30]), IdType.INT64)
    rows = pa.table(
        {
            "history_item_id": pa.array([[10], None], pa.list_(pa.int64())),
            "seen_item_id": pa.array([[10, 30, 99], [20]], pa.list_(pa.int64())),
        }
    )

    assert [row.tolist() for row in seen_rows(rows, items)] == [[1, 3], [2]]
    history = rows.select(["history_item_id"])
    assert [row.tolist() for row in seen_rows(history, items)] == [[1], []]
