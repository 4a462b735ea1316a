"""Pairs that validate: the share asked for, at random or by groups of which nothing is left."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.jobs.held_back import held_back, item_groups, random_pairs, runs, whole_groups


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=20), seed=st.integers(0, 5))
def test_each_user_validates_the_share_asked_for(counts: list[int], seed: int) -> None:
    user = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))

    chosen = random_pairs(user, 0.2, 4, seed)

    for number, count in enumerate(counts):
        expected = max(1, round(0.2 * count)) if count >= 4 else 0
        assert chosen[user == number].sum() == expected
    assert (random_pairs(user, 0.2, 4, seed) == chosen).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 5))
def test_groups_validate_whole_until_there_is_enough(data: st.DataObject, seed: int) -> None:
    pair = st.tuples(st.integers(0, 5), st.integers(0, 8))
    drawn = data.draw(st.lists(pair, min_size=1, max_size=120))
    user, group = (np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True))

    chosen = whole_groups(user, group, 0.2, 4, seed)

    for own in np.unique(user):
        mine = user == own
        wanted = max(1, round(0.2 * mine.sum())) if mine.sum() >= 4 else 0
        sizes = np.bincount(group[mine])
        taken = np.bincount(group[mine & chosen], minlength=len(sizes))
        assert set(taken[taken > 0]) <= set(sizes[taken > 0])  # all of a group or nothing
        assert taken.max(initial=0) <= 2 * wanted
        total = taken.sum()
        fitting = [size for size in sizes if 0 < size <= 2 * wanted]
        assert min(wanted, sum(fitting)) <= total
        assert total < max(1, wanted + 2 * wanted)


def test_items_of_the_same_buyers_are_a_group() -> None:
    rng = np.random.default_rng(0)
    tastes = np.repeat([0, 1, 2], 100)
    items = [taste * 40 + rng.permutation(40)[:12] for taste in tastes]
    user, item = np.repeat(np.arange(300), 12), np.concatenate(items)

    groups = item_groups(user, item, seed=0)

    assert len(groups) == 120
    assert len(np.unique(groups)) == 120 // 40
    for taste in range(3):
        assert len(np.unique(groups[taste * 40 : (taste + 1) * 40])) == 1


def test_a_share_of_the_users_validates_by_groups() -> None:
    rng = np.random.default_rng(0)
    items = [3 * rng.permutation(160)[:20] + 1 for _ in range(400)]
    user, item = np.repeat(np.arange(400), 20), np.concatenate(items)
    code = np.unique(item, return_inverse=True)[1]
    random = held_back(user, item, 0.1, 5, 0.0, seed=1)
    half = held_back(user, item, 0.1, 5, 0.5, seed=1)

    same = np.array([(random[user == own] == half[user == own]).all() for own in range(400)])

    groups = item_groups(user, code, seed=1)[code]
    whole = whole_groups(user, groups, 0.1, 5, seed=1)
    assert 150 < same.sum() < 250
    for own in np.flatnonzero(~same):
        assert (half[user == own] == whole[user == own]).all()


def test_runs_are_where_any_array_changes() -> None:
    first, sizes = runs(np.array([1, 1, 1, 2, 2]), np.array([5, 5, 6, 6, 6]))

    assert first.tolist() == [0, 2, 3]
    assert sizes.tolist() == [2, 1, 2]
    assert [len(found) for found in runs(np.zeros(0, np.int64))] == [0, 0]
