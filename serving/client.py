"""A client of the HTTP interface, for programs of the shop: typed, with timeouts and retries.

    from serving.client import Client

    with Client("http://localhost:8000") as client:
        answer = client.recommend(user_id=1, n=5, exclude_seen=True)

``AsyncClient`` has the same methods to be awaited. What fails on the way, and what the server puts
off (429, 503), is tried again: every request may safely be sent twice, feedback by its event ids.
It needs httpx and pydantic alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from feature_repo.contract.errors import BadInput, ShoprecError
from serving.answers import BatchAnswer, FeedbackResult, ItemsChanged, Recommendation

Id = int | str
T = TypeVar("T")

PUT_OFF = frozenset({429, 502, 503, 504})
"""Statuses after which a request is sent again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


class Refused(BadInput):
    """The server refuses the request as it is."""

    def __init__(self, status: int, error: str, fields: Sequence[str]) -> None:
        super().__init__(f"{error} (status {status})")
        self.status = status
        self.fields = tuple(fields)
        """Those that are wrong."""


class Unavailable(ShoprecError):
    """The server did not answer, or put the request off, each time that it was sent."""


class ListSettings(TypedDict, total=False):
    """What every request for a list may say; see ``/docs`` of the server."""

    exclude_seen: bool
    exclude: Sequence[Id]
    filters: Mapping[str, Any]
    diversity: float | None
    explain: bool
    scenario: str | None
    anchor_items: Sequence[Id]
    session_id: str | None
    context: Mapping[str, Any]
    variant: Mapping[str, str]


class RecommendSettings(ListSettings, total=False):
    """What a request to recommend may say beside its user and length."""

    candidate_items: Sequence[Id] | None


@dataclass(frozen=True)
class _Call(Generic[T]):
    """One request, and what is read from the answer."""

    method: str
    path: str
    answer: TypeAdapter[T]
    body: dict[str, Any] | None = None
    params: dict[str, int] | None = None

    def read(self, response: httpx.Response) -> T:
        """The answer.

        Raises:
            Refused: it is a refusal.
            ShoprecError: the server failed.
        """
        if response.is_success:
            return self.answer.validate_json(response.content)
        error, fields = f"The server answered {response.status_code}.", []
        if response.headers.get("content-type", "").startswith("application/json"):
            found = response.json()
            error, fields = found["error"], [one["field"] for one in found["problems"]]
        if response.is_client_error:
            raise Refused(response.status_code, error, fields)
        raise ShoprecError(f"{self.method} {self.path}: {error}")


_LIST, _BATCH = TypeAdapter(Recommendation), TypeAdapter(BatchAnswer)
_ITEMS, _FEEDBACK = TypeAdapter(ItemsChanged), TypeAdapter(FeedbackResult)


def _recommend(user_id: Id, n: int, settings: Mapping[str, Any]) -> _Call[Recommendation]:
    return _Call("POST", "/recommend/", _LIST, {"user_id": user_id, "n": n, **settings})


def _batch(requests: Sequence[Mapping[str, Any]]) -> _Call[BatchAnswer]:
    return _Call("POST", "/recommend/batch", _BATCH, {"requests": [*requests]})


def _rank(user_id: Id, items: Sequence[Id], settings: Mapping[str, Any]) -> _Call[Recommendation]:
    body = {"user_id": user_id, "candidate_items": [*items], **settings}
    return _Call("POST", "/rank/", _LIST, body)


def _similar(item_id: Id, n: int) -> _Call[Recommendation]:
    return _Call("GET", f"/similar/{_in_path(item_id)}", _LIST, params={"n": n})


def _put(items: Sequence[Mapping[str, Any]]) -> _Call[ItemsChanged]:
    return _Call("PUT", "/items", _ITEMS, {"items": [*items]})


def _remove(item_id: Id) -> _Call[ItemsChanged]:
    return _Call("DELETE", f"/items/{_in_path(item_id)}", _ITEMS)


def _feedback(events: Sequence[Mapping[str, Any]]) -> _Call[FeedbackResult]:
    return _Call("POST", "/feedback/", _FEEDBACK, {"events": [*events]})


def _in_path(item_id: Id) -> str:
    return quote(str(item_id), safe="")


class _Tries:
    """How often a request is sent, and how long to wait in between."""

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._pause_s = FIRST_PAUSE_S
        self.why = ""

    def __iter__(self) -> Iterator[None]:
        yield
        while self._left:
            self._left -= 1
            yield

    def after(self, response: httpx.Response | None, error: Exception | None) -> float:
        """Seconds to wait before the next try; 0 if there is none."""
        self.why = str(error or "") or type(error).__name__
        asked_s = 0.0
        if response is not None:
            self.why = f"status {response.status_code}"
            text = response.headers.get("retry-after", "")
            asked_s = float(text) if text.isdigit() else 0.0
        pause_s = max(random.uniform(0.5, 1.0) * self._pause_s, min(asked_s, LONGEST_PAUSE_S))
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s if self._left else 0.0

    def failure(self, call: _Call[Any], url: str) -> Unavailable:
        """What to raise at last."""
        return Unavailable(f"{call.method} {url}{call.path} was not answered: {self.why}.")


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


class Client:
    """Asks a server, and waits for its answers; may be used by many threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 2.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect when first asked.

        Args:
            url: of the server, such as ``http://localhost:8000``.
            api_key: where the server asks for one.
            timeout_s: most time of one try.
            retries: tries after the first.
            transport: httpx's way to the server; None: the network.
        """
        self._url, self._retries = url.rstrip("/"), retries
        self._http = httpx.Client(
            base_url=self._url, headers=_headers(api_key), timeout=timeout_s, transport=transport
        )

    def recommend(
        self, user_id: Id, n: int = 10, **settings: Unpack[RecommendSettings]
    ) -> Recommendation:
        """The best items for one user.

        Raises:
            Refused: the request is wrong.
            Unavailable: the server does not answer.
        """
        return self._send(_recommend(user_id, n, settings))

    def recommend_many(self, requests: Sequence[Mapping[str, Any]]) -> list[Recommendation]:
        """Lists for up to 100 requests, each as the body of ``POST /recommend/``."""
        return self._send(_batch(requests)).answers

    def rank(
        self, user_id: Id, items: Sequence[Id], **settings: Unpack[ListSettings]
    ) -> Recommendation:
        """Given items in the order of the user's interest."""
        return self._send(_rank(user_id, items, settings))

    def similar(self, item_id: Id, n: int = 10) -> Recommendation:
        """The items that are nearest to one."""
        return self._send(_similar(item_id, n))

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> ItemsChanged:
        """Change up to 1,000 items, or add some: ``item_id`` and the values that change."""
        return self._send(_put(items))

    def remove_item(self, item_id: Id) -> ItemsChanged:
        """Take an item out of all lists."""
        return self._send(_remove(item_id))

    def feedback(self, events: Sequence[Mapping[str, Any]]) -> FeedbackResult:
        """Report up to 1,000 events, each with an ``event_id`` of its own."""
        return self._send(_feedback(events))

    def _send(self, call: _Call[T]) -> T:
        tries = _Tries(self._retries)
        for _ in tries:
            response = failure = None
            try:
                response = self._http.request(
                    call.method, call.path, json=call.body, params=call.params
                )
            except httpx.TransportError as error:
                failure = error
            if response is not None and response.status_code not in PUT_OFF:
                return call.read(response)
            time.sleep(tries.after(response, failure))
        raise tries.failure(call, self._url)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """Asks a server, for programs on an event loop; see ``Client``."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 2.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connect when first asked; see ``Client``."""
        self._url, self._retries = url.rstrip("/"), retries
        self._http = httpx.AsyncClient(
            base_url=self._url, headers=_headers(api_key), timeout=timeout_s, transport=transport
        )

    async def recommend(
        self, user_id: Id, n: int = 10, **settings: Unpack[RecommendSettings]
    ) -> Recommendation:
        """See ``Client.recommend``."""
        return await self._send(_recommend(user_id, n, settings))

    async def recommend_many(self, requests: Sequence[Mapping[str, Any]]) -> list[Recommendation]:
        """See ``Client.recommend_many``."""
        return (await self._send(_batch(requests))).answers

    async def rank(
        self, user_id: Id, items: Sequence[Id], **settings: Unpack[ListSettings]
    ) -> Recommendation:
        """See ``Client.rank``."""
        return await self._send(_rank(user_id, items, settings))

    async def similar(self, item_id: Id, n: int = 10) -> Recommendation:
        """See ``Client.similar``."""
        return await self._send(_similar(item_id, n))

    async def put_items(self, items: Sequence[Mapping[str, Any]]) -> ItemsChanged:
        """See ``Client.put_items``."""
        return await self._send(_put(items))

    async def remove_item(self, item_id: Id) -> ItemsChanged:
        """See ``Client.remove_item``."""
        return await self._send(_remove(item_id))

    async def feedback(self, events: Sequence[Mapping[str, Any]]) -> FeedbackResult:
        """See ``Client.feedback``."""
        return await self._send(_feedback(events))

    async def _send(self, call: _Call[T]) -> T:
        tries = _Tries(self._retries)
        for _ in tries:
            response = failure = None
            try:
                response = await self._http.request(
                    call.method, call.path, json=call.body, params=call.params
                )
            except httpx.TransportError as error:
                failure = error
            if response is not None and response.status_code not in PUT_OFF:
                return call.read(response)
            await asyncio.sleep(tries.after(response, failure))
        raise tries.failure(call, self._url)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
