"""The exploration of a server, from a request to what the next one knows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from feature_repo.contract.errors import StoreUnavailable
from ranking.exploration.sums import COUNT, REWARD
from ranking.policy_config import PolicyConfig
from serving.experiments.exposure import ExposureLog
from serving.experiments.running import Experiments
from serving.exploration.learning import Rewards
from serving.exploration.running import Exploration
from serving.exploration.store import SumStore
from serving.metrics import Metrics
from serving.query import Query
from serving.recommender import Recommender
from serving.release import Release
from serving.server import Server
from tests.serving.exploration.conftest import away
from tests.serving.http import client_of, server_of

pytestmark = pytest.mark.anyio

SETTING = 'policy.exploration.default={"places": [2, 4], "arms": 12}'
USER = 1003


def serving_of(
    release: Release, recommender: Recommender, folder: Path, client: Callable[[], Any], **more: Any
) -> Server:
    """A server whose lists explore, without a thread of its own."""
    metrics, store = Metrics(), SumStore(client, "shop")
    rewards = Rewards(folder / "feedback.jsonl", store, metrics.count_exploration)
    exploration = Exploration(store, rewards, metrics, seed=0, **more)
    exploration._start = lambda: None  # type: ignore[method-assign]
    own = Recommender(release, recommender._users._online, PolicyConfig().updated([SETTING]))
    own.exploration = exploration
    made = server_of(own, folder)
    made.metrics, made.exploration = metrics, exploration
    exposures = ExposureLog(folder / "exposures", "shop")
    made.experiments = Experiments(None, exposures, explored=exploration.shown)
    return made


async def ask(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post("/recommend/", json={"user_id": USER, "n": 6, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def count(server: Server, outcome: str) -> float:
    for line in server.metrics.text().decode().splitlines():
        if line.startswith(f'shoprec_exploration_total{{outcome="{outcome}"}}'):
            return float(line.split()[1])
    return 0.0


async def test_what_is_clicked_is_known_to_the_next_request(
    release: Release, recommender: Recommender, tmp_path: Path, redis: Any
) -> None:
    server = serving_of(release, recommender, tmp_path, lambda: redis)
    async with client_of(server) as client:
        answer = await ask(client)
        item_id = answer["items"][1]["item_id"]
        event = {
            "event_id": "e1",
            "event_type": "click",
            "user_id": USER,
            "item_id": item_id,
            "recommendation_id": answer["recommendation_id"],
        }
        told = await client.post("/feedback/", json={"events": [event]})
        assert told.json()["accepted"] == 1, told.text
        server.exploration.work()
        await ask(client)

    explorer = server.exploration.explorer(PolicyConfig().updated([SETTING]), "default", release)
    assert explorer is not None
    sums = explorer.model.sums
    assert sums.items[sums.rows([item_id])][0, [COUNT, REWARD]].tolist() == [1.0, 1.0]
    assert explorer.model.total == 6
    assert (count(server, "shown"), count(server, "rewarded")) == (1.0, 1.0)


async def test_every_shown_items_propensity_is_logged(
    release: Release, recommender: Recommender, tmp_path: Path, redis: Any
) -> None:
    server = serving_of(release, recommender, tmp_path, lambda: redis)
    async with client_of(server) as client:
        plain, asked = await ask(client), await ask(client, explain=True)
        batch = await client.post("/recommend/batch", json={"requests": [{"user_id": USER}]})
        assert batch.status_code == 200, batch.text
    server.experiments.close()

    lines = [
        json.loads(line)
        for path in (tmp_path / "exposures").glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]

    assert "propensity" not in plain["items"][0]
    assert "explored" not in asked
    assert [item["propensity"] for item in asked["items"]] == pytest.approx(
        lines[1]["propensities"], abs=1e-6
    )
    for line in lines:
        about = line["exploration"]
        assert "experiment" not in line
        assert len(line["propensities"]) == len(line["item_ids"])
        assert about["algorithm"] == "thompson"
        for place, arm in zip(about["places"], about["chosen"], strict=True):
            assert about["arms"][arm] == line["item_ids"][place - 1]
        assert len(about["contexts"]) == len(about["arms"]) == len(about["expected"])


async def test_workers_know_what_others_showed(
    release: Release, recommender: Recommender, tmp_path: Path, redis: Any
) -> None:
    servers = [serving_of(release, recommender, tmp_path, lambda: redis) for _ in range(2)]
    policy = PolicyConfig().updated([SETTING])
    for server in servers:
        async with client_of(server) as client:
            await ask(client)
    for server in servers:
        server.exploration._ended.clear()
        server.exploration.work()

    models = [server.exploration.explorer(policy, "default", release) for server in servers]

    assert [own.model.total for own in models if own is not None][-1] == 12


async def test_while_the_store_is_away_lists_explore_and_wait_to_be_learned(
    release: Release, recommender: Recommender, tmp_path: Path, redis: Any
) -> None:
    clients = [away()]
    server = serving_of(release, recommender, tmp_path, lambda: clients[0], most_waiting=2)
    async with client_of(server) as client:
        for _ in range(2):
            answer = await ask(client, explain=True)
            assert answer["degraded"] == []
            assert 0 < answer["items"][1]["propensity"] < 1
            with pytest.raises(StoreUnavailable):
                server.exploration.work()
        await ask(client)
        with pytest.raises(StoreUnavailable):
            server.exploration.work()  # of three lists there is room for two
        time.sleep(0.05)
        assert not server.exploration._try()
        age = next(
            float(line.split()[1])
            for line in server.metrics.text().decode().splitlines()
            if line.startswith("shoprec_exploration_age_seconds ")
        )
        clients[0] = redis
        server.exploration.work()

    assert age >= 0.05
    assert (count(server, "shown"), count(server, "lost")) == (2.0, 1.0)


def test_requests_that_ask_for_the_same_share_an_explorer(release: Release) -> None:
    policy, exploration = PolicyConfig().updated([SETTING]), Exploration()

    found = [exploration.explorer(policy, "default", release) for _ in range(2)]

    assert found[0] is found[1]
    assert exploration.explorer(policy, "discover", release) is None


async def test_a_thread_works_as_long_as_the_server_runs(
    release: Release, recommender: Recommender, redis: Any
) -> None:
    exploration = Exploration(SumStore(lambda: redis, "shop"))
    own = Recommender(release, recommender._users._online, PolicyConfig().updated([SETTING]))
    own.exploration = exploration
    exploration.shown(own.answer([Query(USER, 6)])[0])
    exploration.close()

    assert redis.get("shoprec:{shop}:explore:default:d8:version") == b"1"
