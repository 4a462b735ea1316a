"""Rewards from a feedback log, in a real store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.contract.errors import StoreUnavailable
from feature_repo.contract.event_log import rotate
from ranking.exploration.sums import COUNT, REWARD, Shown, Sums
from serving.exploration.learning import HOLD_S, Rewards
from serving.exploration.store import Answer, SumStore
from serving.feedback import FeedbackLog
from tests.serving.exploration.conftest import away

DIM = 2


class Shop:
    """A feedback log and a store."""

    def __init__(self, folder: Path, redis: Any) -> None:
        self.path = folder / "shop.jsonl"
        self.log, self.now_s, self.counted = FeedbackLog(self.path), 0.0, dict[str, int]()
        self.store = SumStore(lambda: redis, "shop")
        self.opened: list[Rewards] = []

    def rewards(self) -> Rewards:
        found = Rewards(self.path, self.store, self._count, lambda: self.now_s)
        self.opened.append(found)
        return found

    def show(self, name: str, *item_ids: int) -> None:
        shown = {str(own): Shown(own, np.array([1.0, 0.5]), 0.1) for own in item_ids}
        rewards = {"click": 0.5, "purchase": 1.0}
        self.store.add("s", DIM, name, {}, [Answer(name, "s", DIM, rewards, 60.0, shown)])

    def tell(self, event_id: str, name: str | None, item_id: int, kind: str = "click") -> None:
        line = {
            "event_id": event_id,
            "event_type": kind,
            "item_id": item_id,
            "recommendation_id": name,
        }
        self.log.append([line], datetime.now(UTC))

    def reward(self, item_id: int) -> float:
        sums = Sums(DIM)
        sums.set(self.store.changes("s", DIM, 0)[1])
        assert sums.items[sums.rows([item_id])][0, COUNT] == 0
        return float(sums.items[sums.rows([item_id])][0, REWARD])

    def _count(self, **outcomes: int) -> None:
        for name, number in outcomes.items():
            self.counted[name] = self.counted.get(name, 0) + number


@pytest.fixture
def shop(tmp_path: Path, redis: Any) -> Iterator[Shop]:
    shop = Shop(tmp_path, redis)
    yield shop
    for rewards in shop.opened:
        rewards.close()


def test_feedback_on_a_list_rewards_its_items(shop: Shop) -> None:
    shop.show("r1", 7, 8)
    shop.tell("e1", "r1", 7)
    shop.tell("e2", "r1", 8, "purchase")
    shop.tell("e3", "r1", 9)  # was not in the list
    shop.tell("e4", "r1", 8, "view")  # is worth nothing
    shop.tell("e5", None, 8)

    shop.rewards().learn()

    assert (shop.reward(7), shop.reward(8), shop.reward(9)) == (0.5, 1.0, 0.0)
    assert shop.counted == {"rewarded": 2}


def test_an_event_counts_once_whoever_reads_it(shop: Shop, redis: Any) -> None:
    shop.show("r1", 7)
    shop.tell("e1", "r1", 7)
    first = shop.rewards()
    first.learn()
    first.close()
    redis.delete("shoprec:{shop}:explore:places")  # the place is lost, and all is read again

    shop.rewards().learn()

    assert shop.reward(7) == 0.5
    assert shop.counted == {"rewarded": 1, "repeated": 1}


def test_one_process_reads_a_log_and_another_takes_over(shop: Shop) -> None:
    shop.show("r1", 7, 8)
    first, second = shop.rewards(), shop.rewards()
    first.learn()  # there is no log yet
    shop.tell("e1", "r1", 7)
    first.learn()
    shop.tell("e2", "r1", 8)

    second.learn()
    assert shop.reward(8) == 0.0
    first.close()
    second.learn()

    assert (shop.reward(7), shop.reward(8)) == (0.5, 0.5)
    assert shop.counted == {"rewarded": 2}


def test_feedback_that_comes_before_its_list_is_looked_at_again(shop: Shop) -> None:
    rewards = shop.rewards()
    shop.tell("e1", "r1", 7)
    rewards.learn()
    shop.show("r1", 7)

    rewards.learn()
    assert shop.reward(7) == 0.0
    shop.now_s += HOLD_S
    rewards.learn()

    assert shop.reward(7) == 0.5


def test_segments_that_are_cut_off_are_read_to_their_ends(shop: Shop) -> None:
    shop.show("r1", 7, 8, 9)
    rewards = shop.rewards()
    shop.tell("e1", "r1", 7)
    rewards.learn()
    shop.tell("e2", "r1", 8)
    rotate(shop.path)
    shop.tell("e3", "r1", 9)

    rewards.learn()

    assert [shop.reward(item) for item in (7, 8, 9)] == [0.5, 0.5, 0.5]


def test_what_could_not_be_learned_waits_for_the_store(shop: Shop, redis: Any) -> None:
    shop.show("r1", 7)
    rewards = shop.rewards()
    rewards.learn()
    shop.tell("e1", "r1", 7)
    rewards.learn()
    shop.tell("e2", "r1", 7, "purchase")
    shop.store._client = away()
    with pytest.raises(StoreUnavailable):
        rewards.learn()

    rewards.learn()

    assert shop.reward(7) == 1.0
