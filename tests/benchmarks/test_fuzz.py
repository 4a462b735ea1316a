"""300 requests made up from the interface's description, in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from schemathesis import openapi

from benchmarks.fuzz import fuzz
from serving.app import create_app
from serving.online import OnlineStore
from serving.recommender import Recommender
from serving.release import Release
from tests.serving.conftest import BUILD_LIMIT_S, release, shop, store_url  # noqa: F401
from tests.serving.http import server_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_LIMIT_S)]


def test_no_request_makes_the_server_fail(
    release: Release,  # noqa: F811
    store_url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    about = release.about
    store = OnlineStore(about.project, release.schema, about.user_id, url=store_url)
    app = create_app(server_of(Recommender(release, store), tmp_path))

    async def sent(case: Any, body: bytes) -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.request(
                case.method, case.formatted_path, content=body, headers=headers
            )

    def send(case: Any, body: bytes | None) -> Any:
        return case.call() if body is None else asyncio.run(sent(case, body))

    found = fuzz(openapi.from_asgi("/openapi.json", app), send, cases=300, seed=0)

    assert sum(probed.statuses.total() for probed in found) > 200
    for probed in found:
        assert probed.failures == [], probed.operation
        assert max(probed.statuses) < 500, probed.operation
        assert 200 in probed.statuses or 202 in probed.statuses, probed.operation
