"""What shoppers do changes the next request: the log, the process that folds, and the store."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from benchmarks._faults_parts import Releases, ServerProcess
from feature_repo.contract import embedded
from feature_repo.contract.dataset import IdType
from feature_repo.contract.embedded import embedded_url
from feature_repo.contract.online_state import UserStates
from serving.folding import Folding, caught_up
from serving.recommender import Recommender
from serving.release import Release
from serving.settings import Settings
from tests.feature_repo.jobs import feedback
from tests.feature_repo.jobs.feedback import line
from tests.serving.conftest import BUILD_LIMIT_S, copied_store
from tests.serving.http import server_of
from tests.serving.shop import NAME, TinyShop

USER, OTHER, NOBODY = 1007, 1011, 77_777
AGE = "shoprec_folding_age_seconds "

pytestmark = pytest.mark.timeout(BUILD_LIMIT_S)


@pytest.fixture(scope="module")
def store(shop: TinyShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a copy of the filled store that these tests may change."""
    with copied_store(shop, tmp_path_factory.mktemp("folded") / "online") as url:
        yield url


@pytest.fixture
def states(store: str) -> UserStates:
    """Return the users' rows."""
    return UserStates(Redis.from_url(store), NAME, IdType.INT64)


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds; return how long that took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write lines that arrive now."""
    feedback.append(path, lines, datetime.now(UTC))


@contextlib.contextmanager
def folding(settings: Settings, path: Path) -> Iterator[Folding]:
    """Fold in a thread."""
    found = Folding(settings, path)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield found
    finally:
        found.end()
        thread.join()


def count_of(states: UserStates, user: int, item: int) -> int:
    """How often a user bought an item."""
    (read,) = states.read([user])
    return dict(read.user.row.history.items)[item].count if _has(read, item) else 0


def _has(read: Any, item: int) -> bool:
    return item in dict(read.user.row.history.items)


@pytest.fixture
def settings(
    shop: TinyShop, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Return the settings of a server on the store."""
    monkeypatch.setenv("REDIS_URL", store)
    return Settings(release=shop.releases / "current", feedback=tmp_path, fold_s=0.02)


def test_a_purchase_is_in_the_users_row_within_a_second(
    settings: Settings, states: UserStates, release: Release, tmp_path: Path
) -> None:
    path, now = tmp_path / f"{NAME}.jsonl", release.about.now()
    before = count_of(states, USER, 501)
    with folding(settings, path):
        append(path, [line("a", USER, 501, now), line("b", NOBODY, 502, now)])

        until(lambda: count_of(states, USER, 501) == before + 1, 1.0)
        until(lambda: count_of(states, NOBODY, 502) == 1, 1.0)

        append(path, [line("a", USER, 501, now), line("c", NOBODY, 503, now)])
        until(lambda: count_of(states, NOBODY, 503) == 1, 1.0)
        assert count_of(states, USER, 501) == before + 1


def test_metrics_tell_how_old_the_rows_may_be(
    settings: Settings, recommender: Recommender, tmp_path: Path
) -> None:
    server = server_of(recommender, tmp_path)

    def age_s() -> float:
        text = server.measured().decode()
        (line,) = (line for line in text.splitlines() if line.startswith(AGE))
        return float(line.split()[-1])

    before = age_s()
    with folding(settings, server.feedback.path):
        until(lambda: age_s() < 1.0, 5.0)
    folded = caught_up(server.feedback.path)
    an_hour_ago = time.time() - 3600
    os.utime(folded, (an_hour_ago, an_hour_ago))

    assert math.isnan(before)
    assert age_s() == pytest.approx(3600, abs=60)


def test_of_two_processes_one_folds_and_the_other_takes_over(
    settings: Settings, states: UserStates, release: Release, tmp_path: Path
) -> None:
    path, now = tmp_path / f"{NAME}.jsonl", release.about.now()
    with folding(settings, path) as first, folding(settings, path):
        append(path, [line("d", NOBODY, 510, now)])
        until(lambda: count_of(states, NOBODY, 510) == 1, 2.0)
        first.end()
        append(path, [line("e", NOBODY, 511, now)])
        until(lambda: count_of(states, NOBODY, 511) == 1, 3.0)
    assert count_of(states, NOBODY, 510) == 1


def test_while_the_store_is_away_events_wait_in_the_log(
    settings: Settings,
    shop: TinyShop,
    release: Release,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "online"
    shutil.copytree(shop.online, folder, ignore=shutil.ignore_patterns("server.json", "lock"))
    path, now = tmp_path / f"{NAME}.jsonl", release.about.now()
    port = embedded.free_port()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
    with folding(settings, path):
        append(path, [line("f", USER, 505, now)])
        until(lambda: "Feedback is folded when it is back" in caplog.text, 5.0)

        monkeypatch.setattr(embedded, "free_port", lambda: port)
        before = len(embedded._SERVERS)
        states = UserStates(Redis.from_url(embedded_url(folder)), NAME, IdType.INT64)
        try:
            until(lambda: _has(states.read([USER])[0], 505), 5.0)
        finally:
            for server in embedded._SERVERS[before:]:
                server.stop()
            del embedded._SERVERS[before:]


@pytest.fixture(scope="module")
def server(
    shop: TinyShop, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Return a running server with two workers."""
    folder = tmp_path_factory.mktemp("folding")
    releases = Releases(folder / "releases", (shop.releases / "current").resolve())
    port = urlsplit(store).port
    assert port is not None
    server = ServerProcess(folder / "server", releases.folder, port, workers=2)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def ask(server: ServerProcess, path: str, request: Any) -> Any:
    """Return the answer over a connection of its own, which any worker may take."""
    response = httpx.post(f"{server.url}{path}", json=request, timeout=30.0)
    assert response.is_success, response.text
    return response.json()


def listed(server: ServerProcess, user: int, **values: Any) -> list[int]:
    """The items that a user is answered with."""
    items = ask(server, "/recommend/", {"user_id": user, "n": 10, **values})["items"]
    return [item["item_id"] for item in items]


def bought(user: int, item: int, event_id: str, **values: Any) -> dict[str, Any]:
    event = {"event_id": event_id, "user_id": user, "item_id": item, "event_type": "purchase"}
    return {**event, **values}


def test_the_next_request_reflects_a_purchase(server: ServerProcess) -> None:
    first = listed(server, OTHER, exclude_seen=True)[0]

    ask(server, "/feedback/", bought(OTHER, first, "g"))

    until(lambda: first not in listed(server, OTHER, exclude_seen=True), 1.0)


def test_the_next_request_reflects_a_click(server: ServerProcess) -> None:
    before = listed(server, OTHER)

    ask(server, "/feedback/", bought(OTHER, 533, "h", event_type="click"))

    assert all(listed(server, OTHER) != before for _ in range(8)), "whichever worker answers"


def test_a_folding_process_that_dies_is_started_again(
    server: ServerProcess, states: UserStates
) -> None:
    for pid in folding_pids(server):
        os.kill(pid, signal.SIGKILL)
    ask(server, "/feedback/", bought(NOBODY, 520, "i"))

    until(lambda: count_of(states, NOBODY, 520) == 1, 30.0)


def folding_pids(server: ServerProcess) -> list[int]:
    pid = server._process.pid
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = {int(child) for path in children for child in path.read_text().split()}
    return [p for p in found if b"serving.folding" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_the_folding_process_ends_with_its_server(server: ServerProcess) -> None:
    until(lambda: bool(folding_pids(server)), 10.0)
    pids = folding_pids(server)

    server.kill()

    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), 10.0)
