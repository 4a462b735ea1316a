"""What stands before the routes: keys, sizes, a bounded queue, counting."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from serving.recommender import Recommender
from serving.server import Server
from tests.serving.http import client_of, server_of

USER = 1007

pytestmark = pytest.mark.anyio


@pytest.fixture
async def keyed(recommender: Recommender, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an app that asks for keys."""
    async with client_of(server_of(recommender, tmp_path, api_keys=("one", "two"))) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer one"}, {"authorization": "bearer  two"}, {"x-api-key": "one"}],
)
async def test_a_key_lets_in(keyed: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await keyed.post("/recommend/", json={"user_id": USER}, headers=headers)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer three"}, {"authorization": "one"}, {"x-api-key": ""}]
)
async def test_without_a_key_there_is_no_answer(
    keyed: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/recommend/", "/feedback/", "/nowhere"):
        response = await keyed.post(path, json={"user_id": USER}, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"].startswith("The API key is missing or wrong")
    assert (await keyed.get("/metrics", headers=headers)).status_code == 401


async def test_health_and_description_need_no_key(keyed: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready", "/openapi.json", "/docs", "/"):
        assert (await keyed.get(path)).status_code == 200


@pytest.fixture
def small(recommender: Recommender, tmp_path: Path) -> Server:
    """Return a server that takes small bodies, and one request at a time."""
    return server_of(recommender, tmp_path, max_body=200, queue=1)


async def test_a_body_that_says_it_is_too_large_is_refused(small: Server) -> None:
    async with client_of(small) as client:
        body = {"user_id": USER, "exclude": list(range(100))}
        response = await client.post("/recommend/", json=body)

    assert response.status_code == 413
    assert "at most 200 are taken" in response.json()["error"]


async def test_a_body_that_turns_out_too_large_is_refused(small: Server) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b'{"user_id": 1007,' + b" " * 50

    async with client_of(small) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/recommend/", content=body(), headers=headers)

    assert response.status_code == 413


async def test_more_requests_than_may_wait_are_told_when_to_come_back(small: Server) -> None:
    gate = threading.Event()
    async with client_of(small) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(small.answering.run, gate.wait)
        await anyio.sleep(0)
        response = await client.post("/recommend/", json={"user_id": USER})
        gate.set()

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"].startswith("1 requests are being answered or wait")


async def test_requests_are_counted_by_route_and_status(
    recommender: Recommender, tmp_path: Path
) -> None:
    async with client_of(server_of(recommender, tmp_path)) as client:
        await client.post("/recommend/", json={"user_id": USER})
        await client.post("/recommend/", json={})
        await client.get("/similar/501")
        await client.get("/nowhere/at/all")
        event = {"event_id": "a", "user_id": 1, "item_id": 2, "event_type": "view"}
        await client.post("/feedback/", json=[event, event, {}])
        response = await client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    for line in (
        'shoprec_requests_total{route="/recommend/",status="200"} 1.0',
        'shoprec_requests_total{route="/recommend/",status="422"} 1.0',
        'shoprec_requests_total{route="/similar/{item_id}",status="200"} 1.0',
        'shoprec_requests_total{route="other",status="404"} 1.0',
        'shoprec_request_seconds_count{route="/recommend/"} 2.0',
        'shoprec_stage_seconds_count{stage="ranking"} 1.0',
        'shoprec_feedback_events_total{outcome="accepted"} 1.0',
        'shoprec_feedback_events_total{outcome="duplicate"} 1.0',
        'shoprec_feedback_events_total{outcome="rejected"} 1.0',
        "shoprec_requests_in_progress 0.0",
    ):
        assert line in lines, line
    loaded = f'shoprec_release_loaded{{model_version="{recommender.release.about.version}"}} 1.0'
    assert loaded in lines
