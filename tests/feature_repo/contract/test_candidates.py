from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract.candidates import Candidates, TopK, merge
from feature_repo.contract.errors import BadInput

NAN = float("nan")


def top(items: list[list[int]], scores: list[list[float]]) -> TopK:
    return TopK(np.array(items, np.int64), np.array(scores, np.float32))


def test_lists_of_several_sources_become_one_set_of_candidates() -> None:
    merged = merge(
        {
            "ann": top([[5, 2], [7, 1]], [[0.9, 0.8], [0.7, 0.6]]),
            "popular": top([[2, 3], [4, 0]], [[30, 20], [10, NAN]]),
        }
    )

    assert merged.sources == ("ann", "popular")
    assert len(merged) == 2
    assert merged.offsets.tolist() == [0, 3, 6]
    assert merged.item_row.tolist() == [2, 3, 5, 1, 4, 7]
    scores = [[0.8, 30], [NAN, 20], [0.9, NAN], [0.6, NAN], [NAN, 10], [0.7, NAN]]
    ranks = [[2, 1], [NAN, 2], [1, NAN], [2, NAN], [NAN, 1], [1, NAN]]
    np.testing.assert_array_equal(merged.score, np.array(scores, np.float32))
    np.testing.assert_array_equal(merged.rank, np.array(ranks, np.float32))


def test_some_users_candidates_are_taken_in_any_order() -> None:
    merged = merge({"ann": top([[5, 2], [0, 0], [7, 0]], [[1, 3], [NAN, NAN], [4, NAN]])})

    found = merged.take(np.array([2, 1, 0]))

    assert merged.places_of(np.array([2, 0])).tolist() == [2, 0, 1]
    assert found.offsets.tolist() == [0, 1, 1, 3]
    assert found.item_row.tolist() == [7, 2, 5]
    assert found.score[:, 0].tolist() == [4, 3, 1]
    assert found.rank[:, 0].tolist() == [1, 2, 1]
    assert len(merged.take(np.zeros(0, np.int64))) == 0


def test_a_user_owns_a_slice() -> None:
    merged = merge({"ann": top([[5, 2], [0, 0], [7, 0]], [[1, 0], [NAN, NAN], [1, NAN]])})

    assert [merged.item_row[merged.slice_of(user)].tolist() for user in range(3)] == [
        [2, 5],
        [],
        [7],
    ]


def test_excluded_items_do_not_become_candidates() -> None:
    lists = {"ann": top([[5, 2], [5, 2]], [[1.0, 0.5], [1.0, 0.5]])}
    excluded = [np.array([5, 9]), np.zeros(0, np.int64)]

    merged = merge(lists, excluded)

    assert merged.item_row[merged.slice_of(0)].tolist() == [2]
    assert merged.item_row[merged.slice_of(1)].tolist() == [2, 5]
    assert merged.rank[merged.slice_of(0), 0].tolist() == [2.0]  # its place in the source's list


def test_no_user_has_no_candidates() -> None:
    empty = np.zeros((0, 3))
    merged = merge({"ann": TopK(empty.astype(np.int64), empty.astype(np.float32))})

    assert len(merged) == 0
    assert merged.item_row.shape == (0,)
    assert merged.score.shape == merged.rank.shape == (0, 1)


def test_no_source_is_refused() -> None:
    with pytest.raises(BadInput, match="no source to merge"):
        merge({})


@pytest.mark.parametrize("scores", [[[1.0]], [[1.0, 2.0, 3.0]]])
def test_a_list_needs_a_score_for_each_item(scores: list[list[float]]) -> None:
    with pytest.raises(BadInput, match=r"both be \[B, K\]; got \(1, 2\)"):
        top([[1, 2]], scores)


def test_flat_lists_are_refused() -> None:
    with pytest.raises(BadInput, match=r"both be \[B, K\]"):
        TopK(np.array([1, 2]), np.array([1.0, 2.0], np.float32))


def random_lists(seed: int, num_users: int, widths: list[int]) -> dict[str, TopK]:
    """Lists of distinct items, padded at their ends."""
    random = np.random.default_rng(seed)
    lists = {}
    for number, width in enumerate(widths):
        items = np.zeros((num_users, width), np.int64)
        for user in range(num_users):
            length = int(random.integers(0, width + 1))
            items[user, :length] = random.permutation(np.arange(1, 13))[:length]
        scores = np.where(items > 0, random.random(items.shape), np.nan).astype(np.float32)
        lists[f"source{number}"] = TopK(items, scores)
    return lists


def of_user(merged: Candidates, user: int) -> npt.NDArray[np.int64]:
    return merged.item_row[merged.slice_of(user)]


@given(
    st.integers(0, 10_000), st.integers(1, 4), st.lists(st.integers(1, 12), min_size=1, max_size=4)
)
def test_every_named_item_is_a_candidate_once_with_its_place_and_score(
    seed: int, num_users: int, widths: list[int]
) -> None:
    lists = random_lists(seed, num_users, widths)

    merged = merge(lists)

    for user in range(num_users):
        rows = of_user(merged, user)
        named = {int(row) for found in lists.values() for row in found.item_row[user] if row}
        assert rows.tolist() == sorted(named)
        for column, found in enumerate(lists.values()):
            mine = found.item_row[user]
            rank = merged.rank[merged.slice_of(user), column]
            score = merged.score[merged.slice_of(user), column]
            expected = np.isin(rows, mine)
            np.testing.assert_array_equal(np.isfinite(rank), expected)
            np.testing.assert_array_equal(np.isfinite(score), expected)
            place = rank[expected].astype(np.int64) - 1
            np.testing.assert_array_equal(mine[place], rows[expected])
            np.testing.assert_array_equal(found.score[user][place], score[expected])


@given(st.integers(0, 10_000))
def test_excluding_is_leaving_out(seed: int) -> None:
    lists = random_lists(seed, 3, [6, 9])
    hidden = [np.array([1, 5, 12]), np.arange(1, 13), np.zeros(0, np.int64)]

    whole, cut = merge(lists), merge(lists, hidden)

    for user in range(3):
        kept = ~np.isin(of_user(whole, user), hidden[user])
        assert of_user(cut, user).tolist() == of_user(whole, user)[kept].tolist()
        expected = whole.score[whole.slice_of(user)][kept]
        np.testing.assert_array_equal(cut.score[cut.slice_of(user)], expected)
