"""The app over a recommender, as tests ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from serving.app import create_app
from serving.feedback import FeedbackLog
from serving.live import Live
from serving.recommender import Recommender
from serving.server import Server
from serving.settings import Settings


def server_of(recommender: Recommender, folder: Path, **settings: Any) -> Server:
    """Return the parts of a server whose feedback log lies in a folder."""
    log = FeedbackLog(folder / "feedback.jsonl")
    return Server(Live.of(recommender), log, Settings(**settings))


def client_of(server: Server) -> httpx.AsyncClient:
    """Return a client of a server in this process; its failures are answers, not exceptions."""
    transport = httpx.ASGITransport(app=create_app(server), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop")
