"""The Python client, against the real app and against a server that fails."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from feature_repo.contract.errors import ShoprecError
from serving import client as client_module
from serving.app import create_app
from serving.client import AsyncClient, Client, Refused, Unavailable
from serving.recommender import Recommender
from tests.serving.http import server_of

USER = 1007
CLICK = {"event_id": "a", "user_id": USER, "item_id": 501, "event_type": "click"}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 0.002)


def test_every_method_is_answered_by_the_server(recommender: Recommender, tmp_path: Path) -> None:
    app = create_app(server_of(recommender, tmp_path, api_keys=("secret",)))

    async def asked() -> None:
        transport = httpx.ASGITransport(app=app)
        async with AsyncClient("http://shop", api_key="secret", transport=transport) as client:
            answer = await client.recommend(USER, 5, exclude_seen=True, explain=True)
            want = recommender.recommend(USER, 5, exclude_seen=True, explain=True)
            assert [i.item_id for i in answer.items] == [i.item_id for i in want.items]
            assert answer.items[0].reasons == want.items[0].reasons
            first, second = await client.recommend_many([{"user_id": USER}, {"user_id": 1, "n": 3}])
            assert (len(first.items), len(second.items)) == (10, 3)
            ranked = await client.rank(USER, [501, 502, 777], filters={"price_min": 0})
            assert {i.item_id for i in ranked.items} == {501, 502, 777}
            assert len((await client.similar(501, 4)).items) == 4
            result = await client.feedback([CLICK, {"event_id": "b"}])
            assert (result.accepted, result.rejected[0].event_id) == (1, "b")
            with pytest.raises(Refused, match="status 422") as caught:
                await client.recommend(USER, 0)
            assert caught.value.fields == ("n",)
        async with AsyncClient("http://shop", transport=transport) as stranger:
            with pytest.raises(Refused, match="API key is missing or wrong"):
                await stranger.recommend(USER)

    asyncio.run(asked())


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


class Script(httpx.MockTransport):
    """A server that answers as it is told, one answer after another."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        told: Iterator[httpx.Response | Exception] = iter(answers)

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            answer = next(told)
            if isinstance(answer, Exception):
                raise answer
            return answer

        super().__init__(handle)


TAKEN = httpx.Response(202, json={"accepted": 1, "duplicates": 0, "rejected": []})


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("no answer"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(429, headers={"retry-after": "1"}),
        httpx.Response(503),
    ],
)
def test_what_is_put_off_or_lost_is_sent_again(failure: httpx.Response | Exception) -> None:
    script = Script(failure, failure, TAKEN)

    with Client("http://shop", transport=script) as client:
        assert client.feedback([CLICK]).accepted == 1

    assert len({request.content for request in script.requests}) == 1
    assert len(script.requests) == 3


def test_after_the_last_try_the_failure_is_told() -> None:
    script = Script(*[httpx.ConnectError("refused")] * 3)

    with (
        Client("http://shop", retries=2, transport=script) as client,
        pytest.raises(Unavailable, match=r"POST http://shop/feedback/ was not answered: refused\."),
    ):
        client.feedback([CLICK])


def test_what_is_wrong_is_not_sent_again() -> None:
    body = {"error": "n: too large.", "problems": [{"field": "n", "message": "n: too large."}]}
    script = Script(httpx.Response(422, json=body))

    with (
        Client("http://shop", transport=script) as client,
        pytest.raises(Refused, match=r"n: too large\. \(status 422\)"),
    ):
        client.recommend(1, 1000)

    assert len(script.requests) == 1


def test_a_failure_of_the_server_is_an_error() -> None:
    script = Script(httpx.Response(500, text="oops"))

    with (
        Client("http://shop", transport=script) as client,
        pytest.raises(ShoprecError, match=r"GET /similar/a%2Fb: The server answered 500\."),
    ):
        client.similar("a/b")

    assert script.requests[0].url.raw_path == b"/similar/a%2Fb?n=10"


def test_the_client_needs_no_model_library(repository: Path) -> None:
    heavy = "{'torch', 'faiss', 'fastapi', 'pyarrow', 'numpy', 'redis'}"
    code = f"import sys, serving.client; print({heavy} & set(sys.modules))"

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "set()"
