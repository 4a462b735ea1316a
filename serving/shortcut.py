"""The short way to the route that is asked for most: past the framework's search and wrappers.

The route stays in the app, which describes it; what it answers is the same either way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.problems import ANSWERED, response_to

METHOD = "POST"


class Shortcut:
    """Answers one route's requests itself and passes all others on. Plain ASGI."""

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        """Stand before an app.

        Args:
            app: what answers everything else.
            route: without parameters in its path, and whose endpoint takes the request alone and
                returns the response.
        """
        self._app, self._route = app, route
        self._answer: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if (
            scope["type"] != "http"
            or scope["path"] != self._route.path
            or scope["method"] != METHOD
        ):
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ANSWERED as error:
            response = await response_to(request, error)
        await response(scope, receive, send)
