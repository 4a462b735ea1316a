"""Choosing K of C candidates, held against brute force and laws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.policy_config import Relevance
from ranking.rerank import Alike, Cap, Doubles, Ints, Minimum, choose, relevance

K = 4
seeds = st.integers(0, 10_000)
SMALL = settings(max_examples=60, deadline=None)


def falling(random: np.random.Generator, num_users: int, num_candidates: int) -> Doubles:
    """Return qualities that fall along each row."""
    return -np.sort(-random.random((num_users, num_candidates)), axis=1)


def sharing(codes_BCA: Ints) -> Alike:
    """Return the share of attributes in which a pick and the candidates are equal."""
    users = np.arange(len(codes_BCA))
    return lambda picks: np.asarray(
        (codes_BCA == codes_BCA[users, picks][:, None]).mean(axis=2), dtype=np.float64
    )


def every(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, dtype=np.bool_)


def test_relevance_is_the_probability_over_the_best_ones() -> None:
    scores = np.array([[2.0, 1.0, -1.0], [102.0, 101.0, 0.0]])
    valid = np.array([[True, True, True], [True, True, False]])

    found = relevance(scores, valid, Relevance.probability)

    assert found[0] == pytest.approx([1.0, np.exp(-1.0), np.exp(-3.0)])
    assert found[1] == pytest.approx([1.0, np.exp(-1.0), 0.0])


def test_relevance_by_rank_is_the_discount_of_the_place() -> None:
    scores = np.array([[9.0, 1.0, 0.5]])

    found = relevance(scores, np.array([[True, True, False]]), Relevance.rank)

    assert found[0] == pytest.approx([1 / np.log2(2), 1 / np.log2(3), 0.0])


def test_relevance_of_no_candidate_is_zero() -> None:
    found = relevance(np.zeros((1, 2)), np.zeros((1, 2), bool), Relevance.probability)

    assert found.tolist() == [[0.0, 0.0]]


def test_diversity_follows_the_formula() -> None:
    # place 1: .5 * 1; place 2: .5 * .9 - .5 * 1 against .5 * .3 - .5 * 0
    quality = np.array([[1.0, 0.9, 0.3]])
    codes = np.array([[[1], [1], [2]]])

    found = choose(quality, every((1, 3)), 3, diversity=0.5, alike=sharing(codes))

    assert found.tolist() == [[0, 2, 1]]


def test_a_weak_diversity_keeps_what_is_much_better() -> None:
    # place 2: .8 * .9 - .2 * 1 = .52 against .8 * .3 = .24
    quality = np.array([[1.0, 0.9, 0.3]])
    codes = np.array([[[1], [1], [2]]])

    found = choose(quality, every((1, 3)), 3, diversity=0.2, alike=sharing(codes))

    assert found.tolist() == [[0, 1, 2]]


def test_without_candidates_the_lists_are_empty() -> None:
    nothing = np.zeros((2, 0))

    found = choose(nothing, every((2, 0)), 3, minima=[Minimum(every((2, 0)), 1)])

    assert found.tolist() == [[-1] * 3] * 2


@SMALL
@given(seeds)
def test_without_a_rule_the_best_come_first(seed: int) -> None:
    random = np.random.default_rng(seed)
    quality = falling(random, 3, 7)
    valid = np.arange(7) < random.integers(0, 8, 3)[:, None]

    found = choose(quality, valid, K)

    places = np.arange(K)
    assert found.tolist() == np.where(places < valid.sum(axis=1)[:, None], places, -1).tolist()


@SMALL
@given(seeds)
def test_full_diversity_never_takes_a_duplicate_while_another_is_left(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(1, 4, (2, 9, 2))

    found = choose(falling(random, 2, 9), every((2, 9)), 9, diversity=1.0, alike=sharing(codes))

    for user in range(2):
        kinds = [tuple(codes[user, place]) for place in found[user]]
        distinct = len(set(kinds))
        assert len(set(kinds[:distinct])) == distinct


@SMALL
@given(seeds, st.floats(0, 1))
def test_caps_always_hold_and_leave_no_place_that_could_be_filled(
    seed: int, diversity: float
) -> None:
    random = np.random.default_rng(seed)
    groups = [random.integers(0, 4, (3, 10)) for _ in range(2)]
    mosts = random.integers(1, 3, 2)
    caps = [Cap(group, int(most)) for group, most in zip(groups, mosts, strict=True)]
    alike = sharing(np.stack(groups, axis=2))
    minima = [Minimum(random.random((3, 10)) < 0.3, 2)]

    found = choose(
        falling(random, 3, 10),
        every((3, 10)),
        6,
        diversity=diversity,
        alike=alike,
        caps=caps,
        minima=minima,
    )

    for user in range(3):
        shown = found[user][found[user] >= 0]
        assert len(set(shown)) == len(shown)
        for cap in caps:
            mine = cap.group_BC[user, shown]
            assert np.bincount(mine[mine > 0], minlength=5).max() <= cap.most


def best_by_force(
    quality: Doubles, k: int, member: Ints, least: int, group: Ints, most: int
) -> tuple[int, float]:
    """Return the largest reachable number of members up to ``least``, and the best sum with it."""
    found = []
    for size in range(min(k, len(quality)) + 1):
        for chosen in map(list, combinations(range(len(quality)), size)):
            mine = group[chosen]
            if np.bincount(mine[mine > 0], minlength=1).max() <= most:
                reached = min(int(member[chosen].sum()), least)
                found.append((reached, float(quality[chosen].sum())))
    return max(found)


@SMALL
@given(seeds, st.integers(0, 4), st.integers(1, 4))
def test_minimum_exposure_is_reached_where_it_can_be_and_costs_no_more_than_it_must(
    seed: int, least: int, most: int
) -> None:
    random = np.random.default_rng(seed)
    quality = falling(random, 3, 8)
    member = random.random((3, 8)) < 0.4
    group = random.integers(0, 4, (3, 8))

    found = choose(
        quality, every((3, 8)), K, caps=[Cap(group, most)], minima=[Minimum(member, least)]
    )

    for user in range(3):
        shown = found[user][found[user] >= 0]
        reached, best = best_by_force(quality[user], K, member[user], least, group[user], most)
        assert min(int(member[user, shown].sum()), least) == reached
        assert quality[user, shown].sum() == pytest.approx(best)
        assert (np.diff(quality[user, shown]) <= 0).all()


def test_one_minimum_does_not_undo_another() -> None:
    quality = np.array([[0.9, 0.8, 0.7, 0.6]])
    first = Minimum(np.array([[False, False, True, False]]), 1)
    second = Minimum(np.array([[False, False, False, True]]), 1)

    found = choose(quality, every((1, 4)), 3, minima=[first, second])

    assert found.tolist() == [[0, 2, 3]]


def test_a_minimum_holds_beside_diversity() -> None:
    random = np.random.default_rng(3)
    codes = random.integers(1, 5, (5, 20, 3))
    member = random.random((5, 20)) < 0.4
    found = choose(
        falling(random, 5, 20),
        every((5, 20)),
        5,
        diversity=0.4,
        alike=sharing(codes),
        minima=[Minimum(member, 3)],
    )

    assert (np.take_along_axis(member, found, axis=1).sum(axis=1) >= 3).all()


@SMALL
@given(seeds, st.floats(0, 1))
def test_a_user_alone_gets_the_list_of_a_batch(seed: int, diversity: float) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 13, 4)
    valid = np.arange(12) < sizes[:, None]
    quality, codes = falling(random, 4, 12), random.integers(1, 4, (4, 12, 2))
    group, member = random.integers(0, 5, (4, 12)), random.random((4, 12)) < 0.3

    def lists(users: slice, width: int) -> Ints:
        return choose(
            quality[users, :width],
            valid[users, :width],
            K,
            diversity=diversity,
            alike=sharing(codes[users, :width]),
            caps=[Cap(group[users, :width], 2)],
            minima=[Minimum(member[users, :width], 2)],
        )

    together = lists(slice(None), 12)
    for user, size in enumerate(sizes):
        alone = lists(slice(user, user + 1), int(size))
        assert alone[0].tolist() == together[user].tolist()
