"""Stages that fail or come too late: the request is answered without them, and says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.contract.candidates import TopK
from feature_repo.contract.columns import Rows
from feature_repo.contract.online import UserRows
from ranking.scorer import Scorer
from retrieval.retriever import Retriever
from retrieval.sources import UserBatch
from serving.online import OnlineStore
from serving.query import Query
from serving.recommender import Recommender
from serving.release import Release
from serving.stages import SOURCE_SHARE, Deadline, Run
from tests.serving.http import client_of, server_of

USER = 1007


class Broken:
    """A source that fails."""

    def __init__(self, source: Any) -> None:
        self.name = source.name
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def top(self, users: UserBatch, k: int) -> TopK:
        """Fail for users of whom something is known."""
        if len(users.histories.item_row):
            raise RuntimeError("a page could not be read")
        return self._source.top(users, k)  # type: ignore[no-any-return]


def recommender_of(release: Release, store_url: str) -> Recommender:
    store = OnlineStore(release.about.project, release.schema, release.about.user_id, url=store_url)
    return Recommender(release, store)


def without(release: Release, store_url: str, *names: str) -> Recommender:
    """Return a recommender in which some sources fail."""
    retriever = release.retriever
    sources = tuple(Broken(s) if s.name in names else s for s in retriever.sources)
    return recommender_of(
        replace(release, retriever=replace(retriever, sources=sources)), store_url
    )


def test_a_source_that_fails_is_done_without(release: Release, store_url: str) -> None:
    answer = without(release, store_url, "ease", "ann").recommend(USER)

    assert answer.degraded == ["ann", "ease"]
    assert len(answer.items) == 10
    assert all(item.score is not None for item in answer.items)


def test_where_every_source_fails_popular_items_are_left(release: Release, store_url: str) -> None:
    names = [source.name for source in release.retriever.sources]

    answer = without(release, store_url, *names).recommend(USER)

    assert sorted(answer.degraded) == sorted(names)
    assert {item.source for item in answer.items} == {"popular"}
    assert len(answer.items) == 10


def test_without_the_user_tower_other_sources_are_left(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Retriever, "user_vectors", broken)
    answer = recommender.recommend(USER)

    assert answer.degraded == ["user_tower"]
    assert {item.source for item in answer.items} - {"popular"}


@pytest.mark.parametrize("kind", ["raises", "is not a number"])
def test_where_ranking_fails_the_sources_order_the_items(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def broken(self: Scorer, rows: object, candidates: Any, *_: object) -> Any:
        if kind == "raises":
            raise RuntimeError("no memory")
        return np.full(len(candidates.item_row), np.nan, np.float32)

    monkeypatch.setattr(Scorer, "score", broken)
    answer = recommender.recommend(USER, explain=True)

    assert answer.degraded == ["ranking"]
    first = answer.items[0]
    assert first.sources is not None
    want = sum(1 / (60 + rank) for rank in first.sources.values())
    assert first.score == pytest.approx(want, abs=1e-5)


def test_a_policy_that_fails_is_done_without(release: Release, store_url: str) -> None:
    recommender = recommender_of(release, store_url)
    plain = recommender.recommend(USER)
    items = replace(recommender.view.policy.items, boost_R=np.zeros(0, np.float32))
    policy = replace(recommender.view.policy, items=items)
    recommender.items.view = replace(recommender.view, policy=policy)

    answer = recommender.recommend(USER)

    assert answer.degraded == ["policy"]
    assert [i.item_id for i in answer.items] == [i.item_id for i in plain.items]


def test_what_would_come_too_late_is_left_out(recommender: Recommender) -> None:
    times = iter([0.0, 0.1, 0.2, 0.3, 0.4, *[SOURCE_SHARE] * 20])
    run = Run(Deadline.after(1.0, lambda: next(times)))

    answer = recommender.answer([Query(USER)], run)[0]

    names = [source.name for source in recommender.release.retriever.sources]
    assert answer.degraded[: len(names) - 1] == names[1:]  # the first had begun in time
    assert len(answer.items) == 10


@pytest.fixture
def stuck(release: Release, store_url: str) -> Iterator[Recommender]:
    """Return a recommender whose ranking does not come back before the test is over."""
    recommender, gate = recommender_of(release, store_url), threading.Event()
    scorer = release.scorers["default"]

    class Stuck(Scorer):
        def score(self, *arguments: Any) -> Any:
            gate.wait(60)
            return scorer.score(*arguments)

    waiting = Stuck(scorer.inputs, scorer.config, scorer.members, scorer.rows)
    recommender.items.view = replace(recommender.view, scorers={"default": waiting})
    yield recommender
    gate.set()


@pytest.mark.anyio
async def test_a_stage_that_does_not_come_back_is_not_waited_for(
    stuck: Recommender, tmp_path: Path
) -> None:
    async with client_of(server_of(stuck, tmp_path, deadline_ms=100.0)) as client:
        answers = [await client.post("/recommend/", json={"user_id": USER}) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[0].json()["degraded"][-1] == "ranking"
    assert answers[-1].json()["degraded"][-1] == "queue"  # for every thread is stuck
    assert all(len(answer.json()["items"]) == 10 for answer in answers)


def test_a_store_that_was_emptied_is_named(
    release: Release, recommender: Recommender, store_url: str
) -> None:
    about = release.about
    elsewhere = OnlineStore("nobody", release.schema, about.user_id, url=store_url)

    answer = Recommender(release, elsewhere).recommend(USER)

    assert answer.degraded == ["features"]
    assert {item.source for item in answer.items} == {"popular"}
    assert Recommender(release, elsewhere).recommend(999_999).degraded == []


class Damaged:
    """A store whose values of a user do not fit each other."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    def read(self, user_ids: Sequence[int | str], now: datetime) -> UserRows:
        """Read, and lose part of a list."""
        found = self._store.read(user_ids, now)
        place = found.table.column_names.index("history_count")
        short = pa.array([[1]] * len(user_ids), found.table.schema.field(place).type)
        table = found.table.set_column(place, "history_count", short)
        return replace(found, rows=Rows(table))


@pytest.mark.parametrize(
    ("more", "stage"), [({}, "retrieval"), ({"anchor_items": [503]}, "features")]
)
def test_a_damaged_row_is_answered(
    release: Release, store_url: str, more: dict[str, Any], stage: str
) -> None:
    about = release.about
    store = Damaged(OnlineStore(about.project, release.schema, about.user_id, url=store_url))

    answer = Recommender(release, store).recommend(USER, **more)

    assert stage in answer.degraded
    assert len(answer.items) == 10
