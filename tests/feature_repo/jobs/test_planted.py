"""Preferences that are known: what is drawn follows them, however it is asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.jobs.planted import NOISE, RECENT, REPEATS, WEIGHTS, Floats, Ints, PlantedShop

SIZES = (2, 99, 300, 1_000, 1_037)
"""Items of shops with 1, 1, 3, 10 and 10 clusters, in the last of unequal sizes."""


def all_probabilities(shop: PlantedShop, users: Ints) -> Floats:
    """[B, I]"""
    items = np.arange(shop.num_items, dtype=np.int64)
    return shop.probabilities(users, np.broadcast_to(items, (len(users), shop.num_items)))


def grid(users: Ints, length: int) -> Ints:
    """The first events of each user."""
    return np.broadcast_to(np.arange(length, dtype=np.int64), (len(users), length))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    num_items=st.integers(1, 700),
    users=st.lists(st.integers(0, 10**8 - 1), min_size=1, max_size=6),
    first=st.integers(0, 2**21),
    length=st.integers(1, 12),
    data=st.data(),
)
def test_any_part_of_the_events_made_alone_is_the_same(
    seed: int, num_items: int, users: list[int], first: int, length: int, data: st.DataObject
) -> None:
    shop = PlantedShop(10**8, num_items, seed)
    ids = np.array(users, dtype=np.int64)
    events = first + grid(ids, length)
    whole = shop.items(ids, events)
    row = data.draw(st.integers(0, len(users) - 1))
    start = data.draw(st.integers(0, length - 1))

    part = PlantedShop(10**8, num_items, seed).items(ids[row:], events[row:, start:])

    assert part.tolist() == whole[row:, start:].tolist()
    alone = shop.items(ids[row : row + 1], events[row : row + 1, start : start + 1])
    assert alone.tolist() == [[int(whole[row, start])]]
    assert whole.min() >= 0
    assert whole.max() < num_items


def test_the_order_in_which_users_and_events_are_asked_for_does_not_matter() -> None:
    shop = PlantedShop(1_000, 500, seed=3)
    users, events = np.arange(50), grid(np.arange(50), 30)
    mixed = np.random.default_rng(0).permutation(50)

    found = shop.items(users[mixed], events[:, ::-1])

    assert found.tolist() == shop.items(users, events)[mixed][:, ::-1].tolist()


def test_a_larger_shop_keeps_the_events_of_the_users_that_it_had() -> None:
    users = np.arange(100)

    small, large = (PlantedShop(size, 500, seed=1) for size in (100, 10**8))

    assert small.items(users, grid(users, 20)).tolist() == (
        large.items(users, grid(users, 20)).tolist()
    )


def test_seeds_give_different_tastes_and_events() -> None:
    users = np.arange(1_000)
    first, second = (PlantedShop(1_000, 10_000, seed) for seed in (0, 1))

    # Two of 100 clusters, drawn evenly and apart, are the same once in a hundred times.
    assert (first.tastes(users) == second.tastes(users)).mean() < 0.03
    one, other = (PlantedShop(1_000, 99, seed) for seed in (0, 1))  # one cluster: tastes are alike
    same = one.items(users, grid(users, 50)) == other.items(users, grid(users, 50))
    by_chance = (all_probabilities(one, np.array([0])) ** 2).sum()
    assert same.mean() == pytest.approx(by_chance, abs=0.01)


@pytest.mark.parametrize("num_items", SIZES)
def test_the_probabilities_of_a_user_add_up_to_one(num_items: int) -> None:
    shop = PlantedShop(50, num_items, seed=2)

    found = all_probabilities(shop, np.arange(50))

    assert found.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-12)
    assert found.min() > 0


def test_a_probability_is_the_share_of_the_cluster_times_that_of_the_rank() -> None:
    shop = PlantedShop(1_000, 300, seed=5)  # 3 clusters of 100
    tastes = shop.tastes(np.arange(1_000))
    apart, twice = (
        int(np.flatnonzero((tastes == wanted).all(axis=1))[0]) for wanted in ([1, 2, 0], [1, 1, 0])
    )

    found = all_probabilities(shop, np.array([apart, twice]))

    whole = sum(1 / rank for rank in range(1, 101))
    assert found[0, 1] == pytest.approx((0.6 * 0.9 + 0.1 / 3) * 1 / whole)
    assert found[0, 1 + 3 * 9] == pytest.approx((0.6 * 0.9 + 0.1 / 3) * 1 / 10 / whole)
    assert found[0, 2] == pytest.approx((0.3 * 0.9 + 0.1 / 3) * 1 / whole)
    assert found[0, 0] == pytest.approx((0.1 * 0.9 + 0.1 / 3) * 1 / whole)
    assert found[1, 1] == pytest.approx(((0.6 + 0.3) * 0.9 + 0.1 / 3) * 1 / whole)
    assert found[1, 2] == pytest.approx(0.1 / 3 * 1 / whole)


@pytest.mark.parametrize("num_items", SIZES)
@pytest.mark.parametrize("user", [0, 17])
def test_items_are_drawn_as_often_as_their_probability_says(num_items: int, user: int) -> None:
    shop = PlantedShop(20, num_items, seed=7)
    total = 400_000
    users = np.array([user])

    items = shop.items(users, grid(users, total))[0]
    drawn = np.bincount(items, minlength=num_items).astype(np.float64)

    expected = all_probabilities(shop, users)[0] * total
    rare = expected < 20
    drawn, expected = _joined(drawn, rare), _joined(expected, rare)
    # An event counts once unless it is a repetition, and r times on average as a repeated one: its
    # squared count is 1 + 2 r - r ** 2 on average, and so many times larger is the variance.
    variance = expected * (1 + 2 * REPEATS - REPEATS**2)
    degrees = len(expected) - 1
    distance = ((drawn - expected) ** 2 / np.maximum(variance, 1)).sum()
    assert distance < degrees + 4 * np.sqrt(2 * degrees) + 4


def _joined(values: Floats, rare: npt.NDArray[np.bool_]) -> Floats:
    """The values, with the rare ones as one."""
    return np.append(values[~rare], values[rare].sum())


def test_tastes_are_drawn_evenly() -> None:
    shop = PlantedShop(100_000, 1_000, seed=0)

    tastes = shop.tastes(np.arange(100_000))

    assert tastes.shape == (100_000, len(WEIGHTS))
    for column in tastes.T:
        counts = np.bincount(column, minlength=10)
        assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9  # chi-squared, 9 d.f., p = .001


def test_a_share_of_the_events_repeats_one_of_the_fifty_before() -> None:
    shop = PlantedShop(20_000, 100_000, seed=4)
    users = np.arange(20_000)
    event = shop.items(users, 50 + grid(users, 1))

    before = (shop.items(users, grid(users, RECENT)) == event).any(axis=1).mean()
    by_chance = (shop.items(users, 10_000 + grid(users, RECENT)) == event).any(axis=1).mean()
    after = (shop.items(users, 51 + grid(users, RECENT)) == event).any(axis=1).mean()

    # An event that a repetition is of may be a repetition itself, and is then not what was seen.
    seen = REPEATS * (1 - REPEATS) * (1 - by_chance)
    assert by_chance + seen - 0.02 < before < by_chance + REPEATS + 0.02
    assert after > by_chance + 0.02  # later events repeat this one


def test_without_a_past_there_is_nothing_to_repeat() -> None:
    shop = PlantedShop(50_000, 300, seed=0)
    users = np.arange(50_000)

    first = shop.items(users, np.zeros((50_000, 1), dtype=np.int64))[:, 0]

    liked = (first[:, None] % 3 == shop.tastes(users)).any(axis=1)
    three = all_probabilities(shop, users[:500])
    in_tastes = [
        row[np.isin(np.arange(300) % 3, tastes)].sum()
        for row, tastes in zip(three, shop.tastes(users[:500]), strict=True)
    ]
    assert liked.mean() == pytest.approx(np.mean(in_tastes), abs=0.01)


@pytest.mark.parametrize(
    ("num_items", "k"),
    [
        (99, 10),
        (99, 99),
        (300, 10),
        (300, 50),
        (300, 100),
        (1_000, 100),
        (1_037, 100),
        (1_000, 50),
        (1_037, 50),
        (1_037, 300),
        (20_000, 100),
    ],
)
def test_the_best_items_are_those_of_the_highest_probabilities(num_items: int, k: int) -> None:
    shop = PlantedShop(200, num_items, seed=6)
    users = np.arange(20)

    found = shop.best(users, k)

    every = all_probabilities(shop, users)
    scores = np.take_along_axis(every, found, axis=1)
    assert found.shape == (20, k)
    assert all(len(set(row)) == k for row in found.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    assert scores == pytest.approx(np.sort(every, axis=1)[:, ::-1][:, :k])


def test_no_ranking_finds_more_of_what_is_bought_than_the_best_one() -> None:
    shop = PlantedShop(3_000, 10_000, seed=8)
    users = np.arange(3_000)
    later = shop.items(users, 500 + grid(users, 1))

    best = (shop.best(users, 100) == later).any(axis=1).mean()

    popular = np.arange(100)  # the first item of each of the 100 clusters
    others = np.roll(shop.best(users, 100), 1, axis=0)
    expected = np.take_along_axis(
        all_probabilities(shop, users[:200]), shop.best(users[:200], 100), axis=1
    ).sum(axis=1)
    assert best == pytest.approx(expected.mean(), abs=0.04)
    assert best > np.isin(later, popular).mean() + 0.3
    assert best > (others == later).any(axis=1).mean() + 0.3


def test_the_noise_reaches_every_cluster() -> None:
    shop = PlantedShop(10, 1_000, seed=0)
    users = np.array([4])

    clusters = shop.items(users, grid(users, 50_000))[0] % 10

    others = np.setdiff1d(np.arange(10), shop.tastes(users)[0])
    shares = np.bincount(clusters, minlength=10)[others] / 50_000
    assert shares == pytest.approx(np.full(len(others), NOISE / 10), abs=0.003)


@pytest.mark.parametrize("num_items", [1, 2, 97, 300, 1_037])
def test_public_ids_are_all_of_one_to_the_number_of_items(num_items: int) -> None:
    shop = PlantedShop(1, num_items)
    items = np.arange(num_items)

    ids = shop.item_ids(items)

    assert sorted(ids.tolist()) == list(range(1, num_items + 1))
    assert shop.items_of(ids).tolist() == items.tolist()
