"""Sums in a real server, added to by many at once."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest
from redis import Redis
from redis.cluster import RedisCluster

from feature_repo.contract.errors import StoreUnavailable
from ranking.exploration.sums import SHARED, Shown, Sums, added
from serving.exploration.store import Answer, SumStore
from tests.feature_repo.redis_servers import redis_cluster
from tests.serving.exploration.conftest import away

DIM = 3


def shown(item_id: int | str, weight: float = 1.0) -> Shown:
    return Shown(item_id, np.array([1.0, 0.25, -0.5]), 0.1, weight)


def answer(name: str, *items: Shown) -> Answer:
    by_id = {str(one.item_id): one for one in items}
    return Answer(name, "default", DIM, {"click": 0.5, "purchase": 1.0}, 60.0, by_id)


def store_of(redis: Any) -> SumStore:
    return SumStore(lambda: redis, "shop")


def read(store: SumStore, since: int = 0) -> Sums:
    sums = Sums(DIM)
    sums.set(store.changes("default", DIM, since)[1])
    return sums


def local(*parts: Shown) -> Sums:
    sums = Sums(DIM)
    sums.add(added(one.increments() for one in parts))
    return sums


def same(one: Sums, other: Sums, item_ids: list[int | str]) -> bool:
    mine, theirs = one.items[one.rows(item_ids)], other.items[other.rows(item_ids)]
    return np.allclose(mine, theirs) and np.allclose(one.shared, other.shared)


def test_what_is_added_is_read_as_if_it_were_here(redis: Any) -> None:
    store, items = store_of(redis), [shown(7), shown("a b|c", 0.5), shown(7)]

    store.add("default", DIM, "b1", added(one.increments() for one in items), [])

    assert same(read(store), local(*items), [7, "a b|c"])
    assert store.changes("other", DIM, 0) == (0, {})


def test_a_batch_that_is_sent_again_counts_once(redis: Any) -> None:
    store = store_of(redis)

    for _ in range(3):
        store.add("default", DIM, "b1", shown(7).increments(), [])

    assert same(read(store), local(shown(7)), [7])


def test_only_what_changed_is_read(redis: Any) -> None:
    store = store_of(redis)
    store.add("default", DIM, "b1", added([shown(1).increments(), shown(2).increments()]), [])
    version, first = store.changes("default", DIM, 0)

    store.add("default", DIM, "b2", shown(2).increments(), [])
    later, second = store.changes("default", DIM, version)

    assert set(first) == {SHARED, "i1", "i2"}
    assert set(second) == {SHARED, "i2"}
    assert store.changes("default", DIM, later) == (later, {})


def test_a_store_that_was_emptied_is_read_anew(redis: Any) -> None:
    store = store_of(redis)
    for batch in ("b1", "b2"):
        store.add("default", DIM, batch, shown(1).increments(), [])
    redis.flushall()
    store.add("default", DIM, "b3", shown(2).increments(), [])

    version, found = store.changes("default", DIM, 2)

    assert (version, set(found)) == (1, {SHARED, "i2"})


def test_of_an_items_events_the_highest_reward_counts_once(redis: Any) -> None:
    store, one = store_of(redis), answer("r1", shown(7), shown(8))
    store.add("default", DIM, "b1", {}, [one])

    said = [store.reward(one, 7, reward) for reward in (0.5, 0.5, 1.0, 0.5)]

    assert said == [True, False, True, False]
    expected = Sums(DIM)
    expected.add(shown(7).rewards(), 1.0)
    assert same(read(store), expected, [7, 8])


def test_answers_are_remembered_for_their_time(redis: Any) -> None:
    store = store_of(redis)
    store.add("default", DIM, "b1", {}, [answer("r1", shown(7, 0.5)), answer("r2", shown("x"))])

    found = store.answers(["r1", "r2", "r3"])

    assert set(found) == {"r1", "r2"}
    assert found["r1"].shown["7"].weight == 0.5
    assert found["r1"].shown["7"].context_D.tolist() == shown(7).context_D.tolist()
    assert 50 < redis.ttl("shoprec:{shop}:explore:shown:r1") <= 60
    assert not store.reward(answer("r3", shown(7)), 7, 1.0)  # it is forgotten, and makes no key
    assert not redis.exists("shoprec:{shop}:explore:shown:r3")


def test_the_place_in_a_log_is_kept(redis: Any) -> None:
    store = store_of(redis)

    assert store.place("log") is None
    store.set_place("log", 3, 1234)

    assert store.place("log") == (3, 1234)


def _work(port: int, worker: int, rounds: int) -> None:
    store = SumStore(lambda: Redis(port=port), "shop")
    for number in range(rounds):
        items = [shown(number % 3), shown(100 + worker)]
        one = answer(f"{worker}-{number}", *items)
        parts = added(own.increments() for own in items)
        for _ in range(2):  # a lost reply makes a worker send it again
            store.add("default", DIM, f"{worker} {number}", parts, [one])
        for _ in range(2):
            store.reward(one, 100 + worker, 1.0)


def test_workers_that_add_at_once_lose_no_update_and_count_none_twice(
    valkey: int, redis: Any
) -> None:
    workers, rounds = 4, 60
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(valkey, worker, rounds)) for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)

    sums = read(store_of(redis))

    own = sums.items[sums.rows([100 + worker for worker in range(workers)])]
    assert own[:, 0].tolist() == [rounds] * workers
    assert own[:, 1].tolist() == [rounds] * workers
    every = sums.items[sums.rows([0, 1, 2])]
    assert every[:, 0].tolist() == [workers * rounds / 3] * 3
    assert every[:, 1].tolist() == [0.0] * 3


def test_a_store_that_is_away_is_told() -> None:
    store = SumStore(away, "shop")

    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.changes("default", DIM, 0)


@pytest.mark.slow
def test_sums_lie_on_one_node_of_a_cluster() -> None:
    with redis_cluster() as ports:
        store = SumStore(lambda: RedisCluster(host="127.0.0.1", port=ports[0]), "shop")
        one = answer("r1", shown(7))
        store.add("default", DIM, "b1", shown(7).increments(), [one])

        assert store.reward(one, 7, 1.0)
        assert set(store.answers(["r1"])) == {"r1"}
        assert set(store.changes("default", DIM, 0)[1]) == {SHARED, "i7"}
