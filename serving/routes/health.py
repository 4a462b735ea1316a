"""Health, version and metrics."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from serving.problems import RESPONSES, NotReady
from serving.server import Server

NOT_NOW: dict[int | str, dict[str, Any]] = {503: RESPONSES[503]}
VERSION = metadata.version("shoprec")


def health_routes(server: Server) -> APIRouter:
    """The routes that tell of the server itself."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @router.get("/health/ready", responses=NOT_NOW)
    async def ready() -> dict[str, str]:
        """Whether requests can be answered; they can without the online store, by popularity."""
        version = server.live.get().release.about.version
        if not server.live.ready:
            raise NotReady("The server is about to end.")
        return {"status": "ready", "model_version": version}

    @router.get("/version", responses=NOT_NOW)
    async def show_version() -> dict[str, Any]:
        """What the answers are made with."""
        return {"shoprec": VERSION, **server.live.get().release.settings()}

    @router.get("/experiments")
    async def show_experiments() -> dict[str, Any]:
        """The A/B experiments that are in force, and the files that are refused."""
        return server.experiments.describe()

    @router.get("/metrics", response_class=PlainTextResponse)
    def show_metrics() -> PlainTextResponse:
        """Requests, times, degraded answers and more, for Prometheus; of all workers together."""
        text = server.measured().decode()
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    @router.get("/", include_in_schema=False)
    async def hint() -> dict[str, str]:
        return {
            "shoprec": "POST /recommend/ with a user_id.",
            "documentation": "/docs",
            "health": "/health/ready",
        }

    return router
