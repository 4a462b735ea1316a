"""The online store's connection: the embedded server, and Redis URLs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis

from feature_repo.contract import embedded
from feature_repo.contract.embedded import (
    FOLDER_VARIABLE,
    URL_VARIABLE,
    connect,
    embedded_url,
    online_url,
    split_cluster,
)
from feature_repo.contract.errors import ConfigError, StoreUnavailable


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for an embedded server; servers started in it are stopped afterwards."""
    before = len(embedded._SERVERS)
    yield tmp_path / "online"
    for server in embedded._SERVERS[before:]:
        server.stop()
    del embedded._SERVERS[before:]


def run(code: str, repository: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_second_call_attaches_to_the_running_server(folder: Path) -> None:
    first = embedded_url(folder)

    assert embedded_url(folder) == first
    assert connect(first).ping()


def test_servers_that_start_at_once_have_ports_of_their_own(folder: Path) -> None:
    folders = [folder / name for name in "abcdef"]

    with ThreadPoolExecutor(len(folders)) as threads:
        urls = list(threads.map(embedded_url, folders))

    assert len(set(urls)) == len(folders)
    assert all(connect(url).ping() for url in urls)


def test_another_process_attaches_and_leaves_the_server_running(
    folder: Path, repository: Path
) -> None:
    url = embedded_url(folder)
    code = (
        "from pathlib import Path\n"
        "from feature_repo.contract.embedded import connect, embedded_url\n"
        f"url = embedded_url(Path({str(folder)!r}))\n"
        "connect(url).set('from', 'another process')\n"
        "print(url)"
    )

    assert run(code, repository) == url
    assert connect(url).get("from") == b"another process"


def test_data_outlive_the_process_that_started_the_server(folder: Path, repository: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from feature_repo.contract.embedded import connect, embedded_url\n"
        f"connect(embedded_url(Path({str(folder)!r}))).set('kept', 'yes')"
    )

    run(code, repository)

    assert connect(embedded_url(folder)).get("kept") == b"yes"


def test_two_folders_have_two_servers(folder: Path) -> None:
    first, second = embedded_url(folder / "a"), embedded_url(folder / "b")

    connect(first).set("key", "a")

    assert first != second
    assert connect(second).get("key") is None


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv(URL_VARIABLE, "redis://elsewhere:6379/3")
    assert online_url() == "redis://elsewhere:6379/3"

    monkeypatch.delenv(URL_VARIABLE)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert online_url() == embedded_url(folder)


def test_a_client_has_the_time_limit_that_was_asked_for() -> None:
    client: Redis = connect("redis://127.0.0.1:1/0", timeout_s=0.25)

    assert client.connection_pool.connection_kwargs["socket_timeout"] == 0.25


@pytest.mark.parametrize(
    ("url", "plain", "is_cluster"),
    [
        ("redis://shop:6380/2", "redis://shop:6380/2", False),
        ("redis://shop:7000?cluster=true", "redis://shop:7000", True),
        (
            "rediss://me:p%40ss@shop?socket_timeout=5&cluster=yes",
            "rediss://me:p%40ss@shop?socket_timeout=5",
            True,
        ),
        ("redis://shop?cluster=false", "redis://shop", False),
    ],
)
def test_a_url_says_whether_it_is_of_a_cluster(url: str, plain: str, is_cluster: bool) -> None:
    assert split_cluster(url) == (plain, is_cluster)


def test_a_cluster_that_is_away_is_a_sentence() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        connect("redis://127.0.0.1:1?cluster=true", timeout_s=0.1)


def test_connect_refuses_what_is_no_redis_url() -> None:
    with pytest.raises(ConfigError, match="is not a Redis URL"):
        connect("shop:6379")
