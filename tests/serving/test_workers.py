"""``python -m serving`` with two workers: what they share, and what happens when one ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from benchmarks._faults_parts import Releases, ServerProcess
from serving.client import Client
from serving.release import Release
from tests.serving.conftest import BUILD_LIMIT_S
from tests.serving.golden import golden_lists
from tests.serving.shop import TinyShop

USER = 1007
CONNECTIONS = 24
"""Of so many, each worker takes some."""

pytestmark = pytest.mark.timeout(BUILD_LIMIT_S)


@pytest.fixture(scope="module")
def releases(shop: TinyShop, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Return copies of the release, one of them published."""
    return Releases(
        tmp_path_factory.mktemp("published") / "releases", (shop.releases / "current").resolve()
    )


@pytest.fixture(scope="module")
def server(
    releases: Releases, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Return a server with two workers."""
    port = urlsplit(store_url).port
    assert port is not None
    folder = tmp_path_factory.mktemp("server") / "server"
    server = ServerProcess(folder, releases.folder, port, workers=2)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def ask(server: ServerProcess, method: str, path: str, request: Any = None) -> Any:
    """Return the answer over a connection of its own, which any worker may take."""
    response = httpx.request(method, f"{server.url}{path}", json=request, timeout=30.0)
    assert response.is_success, response.text
    return response.json()


def until_all(server: ServerProcess, holds: Callable[[], bool]) -> None:
    """Wait until something holds for every worker."""
    end, in_a_row = time.monotonic() + 60.0, 0
    while in_a_row < CONNECTIONS:
        assert time.monotonic() < end
        in_a_row = in_a_row + 1 if holds() else 0


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_answer_over_http_is_that_of_the_golden_rows(
    server: ServerProcess, release: Release, exclude_seen: bool
) -> None:
    for user, want in golden_lists(release, exclude_seen).items():
        request = {"user_id": user, "n": 10, "exclude_seen": exclude_seen}
        body = ask(server, "POST", "/recommend/", request)

        assert body["degraded"] == []
        ranked, filled = body["items"][: len(want)], body["items"][len(want) :]
        assert [item["item_id"] for item in ranked] == [item for item, _ in want]
        # popular items fill up where golden rows are fewer
        assert all((item["score"], item["source"]) == (None, "popular") for item in filled)
        scores = [item["score"] for item in ranked]
        np.testing.assert_allclose(scores, [score for _, score in want], rtol=1e-4, atol=1e-5)


def test_an_event_counts_once_whichever_worker_takes_it(server: ServerProcess) -> None:
    event = {"event_id": "once", "user_id": USER, "item_id": 501, "event_type": "click"}

    results = [ask(server, "POST", "/feedback/", event) for _ in range(CONNECTIONS)]

    assert sum(result["accepted"] for result in results) == 1
    assert "once" in server.event_ids()


def test_a_change_of_an_item_is_served_by_every_worker(server: ServerProcess) -> None:
    changes = [{"item_id": 512, "price": 7.25}, {"item_id": 9_000, "title": "New", "price": 2.0}]
    ask(server, "PUT", "/items", {"items": changes})
    request = {"user_id": USER, "candidate_items": [512, 9_000]}

    def holds() -> bool:
        items = ask(server, "POST", "/rank/", request)["items"]
        return {i["item_id"]: i["price"] for i in items} == {512: 7.25, 9_000: 2.0}

    until_all(server, holds)


def test_what_workers_count_is_added_up(server: ServerProcess) -> None:
    def counted() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        line = 'shoprec_requests_total{route="/similar/{item_id}",status="200"} '
        found = [one for one in text.splitlines() if one.startswith(line)]
        return float(found[0].removeprefix(line)) if found else 0.0

    before = counted()
    for _ in range(CONNECTIONS):
        ask(server, "GET", "/similar/501")

    assert counted() == before + CONNECTIONS
    assert "shoprec_release_loaded" in httpx.get(f"{server.url}/metrics").text


def test_a_release_is_replaced_while_it_is_asked(server: ServerProcess, releases: Releases) -> None:
    release = releases.good()
    releases.publish(release)
    request = {"user_id": USER, "n": 5}

    until_all(
        server, lambda: ask(server, "POST", "/recommend/", request)["model_version"] == release.name
    )


def test_a_worker_that_is_killed_is_replaced(server: ServerProcess) -> None:
    before = set(server.pids())
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)

    with Client(server.url, timeout_s=30.0) as client:
        end = time.monotonic() + 60.0
        while len(set(server.pids())) < 2 or min(before) in server.pids():
            assert client.recommend(USER, 5).degraded == []
            assert time.monotonic() < end
    until_all(server, lambda: ask(server, "GET", "/health/ready")["status"] == "ready")


def test_a_server_that_is_told_to_end_ends_well(server: ServerProcess) -> None:
    assert server.terminate() == 0
