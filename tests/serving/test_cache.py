"""Answers that are given again, and what makes them be forgotten; sessions that lists follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving import feedback_tail
from serving.answers import Recommendation
from serving.cache import FOLDED_S, MAX_ANSWERS, AnswerCache
from serving.feedback_tail import FeedbackTail
from serving.recommender import Recommender
from serving.sessions import MAX_ITEMS, Sessions
from tests.serving.http import client_of, server_of

USER, OTHER, UNKNOWN = 1007, 1010, 999_999


class Ticks:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(name: str = "a") -> Recommendation:
    return Recommendation(name, [], None, "1", "1+0", [], 1.0)


def event(**changes: Any) -> dict[str, Any]:
    return {"user_id": USER, "item_id": 501, "event_type": "click", "session_id": "s", **changes}


def test_an_answer_is_given_again_for_its_time() -> None:
    clock = Ticks()
    cache = AnswerCache(2.0, clock)
    cache.put(USER, "five", answer(), clock.now)

    clock.now += 1.9
    assert cache.get(USER, "five") == answer()
    assert cache.get(USER, "six") is None
    assert cache.get(OTHER, "five") is None
    clock.now += 0.2
    assert cache.get(USER, "five") is None


def test_feedback_of_the_user_makes_answers_be_forgotten() -> None:
    clock = Ticks()
    cache = AnswerCache(2.0, clock)
    for user in (USER, OTHER):
        cache.put(user, "five", answer(), clock.now)

    cache.hear(event())

    assert cache.get(USER, "five") is None
    assert cache.get(OTHER, "five") == answer()


def test_an_answer_that_was_begun_before_the_feedback_is_not_kept() -> None:
    clock = Ticks()
    cache = AnswerCache(2.0, clock)
    asked_at = clock.now
    clock.now += 0.1
    cache.hear(event())

    cache.put(USER, "five", answer(), asked_at)
    assert cache.get(USER, "five") is None
    clock.now += FOLDED_S - 0.1  # the stored state may not have it yet
    cache.put(USER, "five", answer(), clock.now)
    assert cache.get(USER, "five") is None
    clock.now += 0.2
    cache.put(USER, "five", answer(), clock.now)
    assert cache.get(USER, "five") == answer()


def test_few_answers_of_a_user_are_kept() -> None:
    clock = Ticks()
    cache = AnswerCache(2.0, clock)
    for number in range(MAX_ANSWERS + 1):
        cache.put(USER, number, answer(), clock.now)

    kept = [number for number in range(MAX_ANSWERS + 1) if cache.get(USER, number)]
    assert kept == list(range(1, MAX_ANSWERS + 1))


def test_a_session_has_its_last_items_latest_first() -> None:
    sessions = Sessions()
    for item_id in (1, 2, 3, 1):
        sessions.see(event(item_id=item_id))
    sessions.see(event(item_id=4, event_type="impression"))
    sessions.see(event(item_id=5, session_id=None))
    sessions.see(event(item_id=6, session_id="t"))

    assert sessions.items("s") == (1, 3, 2)
    assert sessions.items("t") == (6,)
    assert sessions.items("u") == sessions.items(None) == ()


def test_a_long_session_forgets_its_first_items() -> None:
    sessions = Sessions()
    for item_id in range(MAX_ITEMS + 5):
        sessions.see(event(item_id=item_id))

    assert sessions.items("s") == tuple(range(MAX_ITEMS + 4, 4, -1))


def test_what_a_user_looked_at_counts_for_a_while_without_a_session() -> None:
    clock = Ticks()
    sessions = Sessions(60.0, clock)
    for item_id, second in ((1, 90), (2, 95), (3, 95), (1, 99)):
        received = f"1970-01-01T00:01:{second - 60}+00:00"
        sessions.see(event(item_id=item_id, session_id=None, received_at=received))
    bought = {"event_type": "purchase", "received_at": "1970-01-01T00:01:39+00:00"}
    sessions.see(event(item_id=9, **bought))

    assert sessions.looked_at(USER) == (1, 3, 2)
    clock.now += 57
    assert sessions.looked_at(USER) == (1,)
    assert sessions.looked_at(OTHER) == sessions.looked_at(None) == ()


@pytest.fixture
def heard() -> list[int]:
    """Return what a tail tells."""
    return []


@pytest.fixture
def tail(tmp_path: Path, heard: list[int]) -> FeedbackTail:
    """Return the tail of a log that does not exist yet."""
    return FeedbackTail(tmp_path / "log.jsonl", [lambda line: heard.append(line["item_id"])])


def write(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def line(item_id: int) -> str:
    return json.dumps({"event_id": "e", "item_id": item_id, "text": "x" * 50}) + "\n"


def test_a_tail_tells_each_whole_line_once(
    tail: FeedbackTail, tmp_path: Path, heard: list[int]
) -> None:
    path = tmp_path / "log.jsonl"
    tail.catch_up()
    write(path, line(1) + "not an event\n" + line(2) + line(3)[:10])
    tail.catch_up()
    tail.catch_up()
    assert heard == [1, 2]

    write(path, line(3)[10:])
    tail.catch_up()
    assert heard == [1, 2, 3]


def test_a_tail_follows_a_log_that_begins_anew(
    tail: FeedbackTail, tmp_path: Path, heard: list[int]
) -> None:
    path = tmp_path / "log.jsonl"
    write(path, line(1))
    tail.catch_up()
    path.rename(tmp_path / "archive.jsonl")
    write(path, line(2) + line(3))

    tail.catch_up()

    assert heard == [1, 2, 3]


def test_of_a_long_log_the_end_is_told(
    tail: FeedbackTail, tmp_path: Path, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_tail, "MEMORY", 2 * len(line(1)) + 10)
    write(tmp_path / "log.jsonl", "".join(line(number) for number in range(1, 8)))

    tail.catch_up()

    assert heard == [6, 7]


@pytest.mark.anyio
async def test_every_worker_forgets_what_it_kept_of_a_user_with_feedback(
    recommender: Recommender, tmp_path: Path
) -> None:
    one, other = (server_of(recommender, tmp_path, cache_s=60.0) for _ in range(2))
    click = {"event_id": "a", "user_id": USER, "item_id": 501, "event_type": "click"}
    async with client_of(one) as first, client_of(other) as second:

        async def cached(client: Any, user: int) -> bool:
            response = await client.post("/recommend/", json={"user_id": user, "n": 5})
            return bool(response.json()["cached"])

        asked = [await cached(client, user) for client in (first, second) for user in (USER, OTHER)]
        again = [await cached(client, user) for client in (first, second) for user in (USER, OTHER)]
        await first.post("/feedback/", json=click)
        after = [await cached(client, user) for client in (first, second) for user in (USER, OTHER)]

    assert asked == [False] * 4
    assert again == [True] * 4
    assert after == [False, True, False, True]


@pytest.mark.anyio
async def test_a_cached_answer_is_the_same_list_under_another_id(
    recommender: Recommender, tmp_path: Path
) -> None:
    async with client_of(server_of(recommender, tmp_path, cache_s=60.0)) as client:
        first = (await client.post("/recommend/", json={"user_id": USER})).json()
        second = (await client.post("/recommend/", json={"user_id": USER})).json()
        longer = (await client.post("/recommend/", json={"user_id": USER, "n": 11})).json()

    assert second["items"] == first["items"]
    assert second["recommendation_id"] != first["recommendation_id"]
    assert (first["cached"], second["cached"], longer["cached"]) == (False, True, False)


@pytest.mark.anyio
async def test_without_a_time_nothing_is_cached(recommender: Recommender, tmp_path: Path) -> None:
    async with client_of(server_of(recommender, tmp_path)) as client:
        for _ in range(2):
            response = await client.post("/recommend/", json={"user_id": USER})
            assert response.json()["cached"] is False


@pytest.mark.anyio
async def test_a_list_follows_the_session_of_an_unknown_user(
    recommender: Recommender, tmp_path: Path
) -> None:
    looked = [
        {"event_id": str(item), "user_id": UNKNOWN, "item_id": item, "event_type": "view"}
        for item in (510, 503)
    ]
    events = [{**one, "session_id": "s1"} for one in looked]
    async with client_of(server_of(recommender, tmp_path)) as client:
        await client.post("/feedback/", json=events)
        asked = {"user_id": UNKNOWN, "session_id": "s1"}
        followed = (await client.post("/recommend/", json=asked)).json()["items"]

    want = recommender.recommend(UNKNOWN, anchor_items=[503, 510]).items
    assert [item["item_id"] for item in followed] == [item.item_id for item in want]
