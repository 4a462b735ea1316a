"""The short way and the framework's own give the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.recommender import Recommender
from serving.shortcut import Shortcut
from tests.serving.http import client_of, server_of

pytestmark = pytest.mark.anyio

BODIES = {
    "a list": b'{"user_id": 1007, "n": 3, "explain": true}',
    "an unknown user": b'{"user_id": 999999}',
    "a wrong field": b'{"user_id": 1007, "n": 0}',
    "an id of another type": b'{"user_id": "u"}',
    "no JSON": b'{"user_id": ',
    "no body": b"",
    "too large": b'{"user_id": 1007, "exclude": [' + b"1, " * 500 + b"1]}",
}


def without_shortcut(recommender: Recommender, folder: Path, **settings: Any) -> httpx.AsyncClient:
    app = create_app(server_of(recommender, folder, **settings))
    app.user_middleware = [each for each in app.user_middleware if str(each.cls) != str(Shortcut)]
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_both_ways_answer_alike(
    recommender: Recommender, tmp_path: Path, body: bytes
) -> None:
    answers = []
    short = client_of(server_of(recommender, tmp_path / "a", max_body=1000))
    for client in (short, without_shortcut(recommender, tmp_path / "b", max_body=1000)):
        async with client:
            response = await client.post("/recommend/", content=body)
            found = response.json()
            metrics = (await client.get("/metrics")).text
        answers.append(
            (
                response.status_code,
                response.headers["content-type"],
                {k: v for k, v in found.items() if k not in ("recommendation_id", "took_ms")},
                'route="/recommend/"' in metrics,
            )
        )

    assert answers[0] == answers[1]
    assert answers[0][-1] or answers[0][0] == 413


async def test_another_method_is_the_frameworks(recommender: Recommender, tmp_path: Path) -> None:
    async with client_of(server_of(recommender, tmp_path)) as client:
        assert (await client.get("/recommend/")).status_code == 405
