"""What stands before every route: API keys, the largest body, and counting. Plain ASGI."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from serving.problems import problem

OPEN_PATHS = ("/", "/docs", "/openapi.json", "/health/live", "/health/ready")
"""Answered without a key: they tell nothing of the shop."""


class ApiKeys:
    """Lets requests with one of some keys pass: ``Authorization: Bearer KEY`` or ``X-API-Key``."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        text = "The API key is missing or wrong; send it as Authorization: Bearer KEY."
        refused = problem(401, text, headers={"www-authenticate": "Bearer"})
        await refused(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key") or _bearer(headers.get(b"authorization", b""))
        # All are compared, so that the time tells nothing of which one is nearly right.
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


class BodyLimit:
    """Refuses larger bodies than some bytes: by their declared length, else while they arrive."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared[:19]) > self._most:
            text = f"The body has {int(declared[:19])} bytes; at most {self._most} are taken."
            await problem(413, text)(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._most:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


class Counted:
    """Counts requests and their time, by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other").replace(":path}", "}")
            self._metrics.count(route, status, time.perf_counter() - started)
