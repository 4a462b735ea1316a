"""The online store's connection: the embedded server, and Redis URLs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from feature_repo.contract import embedded
from feature_repo.contract.embedded import (
    FOLDER_VARIABLE,
    URL_VARIABLE,
    connect,
    embedded_url,
    feast_connection_string,
    online_url,
)
from feature_repo.contract.errors import ConfigError


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
    ("url", "expected"),
    [
        ("redis://shop:6380", "shop:6380,db=0"),
        ("redis://shop", "shop:6379,db=0"),
        ("redis://shop:6380/2", "shop:6380,db=2"),
        ("rediss://shop:6380/2", "shop:6380,db=2,ssl=true"),
        ("redis://:p%40ss@shop:6380/0", "shop:6380,db=0,password=p@ss"),
        ("redis://me:secret@shop", "shop:6379,db=0,username=me,password=secret"),
        ("redis://shop/1?socket_timeout=5", "shop:6379,db=1,socket_timeout=5"),
    ],
)
def test_a_url_is_translated_for_feast(url: str, expected: str) -> None:
    assert feast_connection_string(url) == expected


@pytest.mark.parametrize("url", ["shop:6379", "http://shop", "redis://"])
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must look like redis://host:6379/0"):
        feast_connection_string(url)


def test_connect_refuses_what_is_no_redis_url() -> None:
    with pytest.raises(ConfigError, match="is not a Redis URL"):
        connect("shop:6379")
