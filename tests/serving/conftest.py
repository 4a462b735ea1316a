"""A tiny shop, built once for all test processes by the real stages, and its recommender."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import values

from feature_repo.contract import embedded
from feature_repo.contract.embedded import embedded_url
from serving.online import OnlineStore
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.http import client_of, server_of
from tests.serving.shop import TinyShop

FOLDER_VARIABLE = "SHOPREC_TINY_SHOP"
"""Environment variable that names a folder to build in, or to find the shop already built in."""

BUILD_LIMIT_S = 1200
"""Time limit of tests that may have to build the shop, or wait for another process to do so."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that use the shop the time to build it."""
    for item in items:
        if "shop" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(BUILD_LIMIT_S))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> TinyShop:
    """Return the tiny shop, built by whichever test process comes first."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = Path(
        os.environ.get(FOLDER_VARIABLE) or (base.parent if parallel else base) / "tiny_shop"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            command = [sys.executable, "-m", "tests.serving.shop", str(folder)]
            result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-8000:]
            (folder / "built").touch()
    return TinyShop(folder)


@contextmanager
def copied_store(shop: TinyShop, folder: Path) -> Iterator[str]:
    """The URL of a copy of the filled store, which ends with the block."""
    shutil.copytree(shop.online, folder, ignore=shutil.ignore_patterns("server.json", "lock"))
    before = len(embedded._SERVERS)
    yield embedded_url(folder)
    for server in embedded._SERVERS[before:]:
        server.stop()
    del embedded._SERVERS[before:]


@pytest.fixture(scope="session")
def store_url(shop: TinyShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of this process's own copy of the filled store."""
    with copied_store(shop, tmp_path_factory.mktemp("store") / "online") as url:
        yield url


@pytest.fixture(scope="session")
def release(shop: TinyShop) -> Release:
    """Return the published release."""
    return Release.load(shop.releases / "current")


@pytest.fixture(scope="session")
def recommender(release: Release, store_url: str) -> Recommender:
    """Return a recommender over the release and the filled store."""
    about = release.about
    return Recommender(
        release, OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    )


@pytest.fixture(autouse=True)
def _own_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count as a server does, which never imports Feast.

    Where another test did, prometheus_client keeps the counters of all servers in one file.
    """
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop that asynchronous tests run on."""
    return "asyncio"


@pytest.fixture
async def client(recommender: Recommender, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the app."""
    async with client_of(server_of(recommender, tmp_path)) as client:
        yield client


@pytest.fixture
def cut_off(release: Release) -> Recommender:
    """Return a recommender whose store cannot be reached."""
    about = release.about
    url = "redis://127.0.0.1:1/0"
    return Recommender(release, OnlineStore(about.project, release.schema, about.user_id, url=url))
