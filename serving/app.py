"""The HTTP interface, an ASGI app."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from feature_repo.contract.errors import ArtifactError
from serving.description import describe_shop
from serving.experiments.exposure import ExposureLog
from serving.experiments.running import EXPOSURES, Experiments
from serving.exploration.running import Exploration
from serving.feedback import FeedbackLog
from serving.guards import ApiKeys, BodyLimit, Counted
from serving.item_log import ItemLog
from serving.live import Live
from serving.metrics import Metrics, forget_dead_workers
from serving.monitor.running import Monitoring
from serving.online import OnlineStore
from serving.problems import add_handlers
from serving.recommender import Recommender
from serving.release import Release
from serving.routes.feedback import feedback_routes
from serving.routes.health import VERSION, health_routes
from serving.routes.items import item_routes
from serving.routes.lists import list_routes, recommend_route
from serving.server import Server
from serving.settings import METRICS_VARIABLE, Settings
from serving.shortcut import Shortcut
from serving.stages import STORE_SHARE

log = logging.getLogger(__name__)

SWITCH_S = 0.001
"""Time that the event loop waits at most for the thread that answers, and it for the loop."""
DESCRIPTION = """\
Lists of items for the users of a shop, and what the users did with them.

Every answer that is not a success has `error`, a sentence, and `problems`, field by field."""


def create_app(server: Server, before: Callable[[], None] | None = None) -> FastAPI:
    """The app over the parts of a server.

    Args:
        server: the parts.
        before: is called, in a thread, before the first request is taken.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        if before is not None:
            await asyncio.to_thread(before)
        yield
        server.live.end()
        server.answering.close()
        server.writing.close()
        server.experiments.close()
        if server.monitoring is not None:
            server.monitoring.end()
        server.exploration.close()

    app = FastAPI(title="shoprec", version=VERSION, description=DESCRIPTION, lifespan=life)
    lists = list_routes(server)
    for routes in (lists, item_routes(server), feedback_routes(server), health_routes(server)):
        app.include_router(routes)
    describe_shop(app, server.live)
    add_handlers(app)
    app.add_middleware(Shortcut, route=recommend_route(lists))
    app.add_middleware(BodyLimit, most=server.settings.max_body)
    if server.settings.api_keys:
        app.add_middleware(ApiKeys, keys=server.settings.api_keys)
    app.add_middleware(Counted, metrics=server.metrics)
    return app


def from_environment() -> FastAPI:
    """The app of one of several worker processes, which takes requests once it is loaded."""
    server = _server(Settings.from_environment())
    return create_app(server, partial(_load, server))


def app_and_loader() -> tuple[FastAPI, Callable[[], None]]:
    """The app of a process alone, and what loads its release: until then it is not ready."""
    server = _server(Settings.from_environment())
    return create_app(server), partial(_load, server)


def _server(settings: Settings) -> Server:
    """The parts of a server; ``project`` is set."""
    sys.setswitchinterval(SWITCH_S)
    folder = os.environ.get(METRICS_VARIABLE)
    shared = Path(folder) if folder else None
    if shared is not None:
        forget_dead_workers(shared)
    metrics = Metrics()
    exposures = ExposureLog(
        settings.feedback / EXPOSURES, settings.project, metrics.count_exposures
    )
    feedback = FeedbackLog(settings.feedback / f"{settings.project}.jsonl")
    exploration = Exploration.of(settings.project, feedback.path, metrics)
    share = settings.log_exposures
    experiments = Experiments(
        settings.experiments, exposures, explored=exploration.shown, share=share
    )
    monitoring = Monitoring.of(settings, metrics)
    load = partial(_recommender, settings, experiments, exploration, monitoring)
    live = Live(settings.release, load, shared=shared)
    return Server(live, feedback, settings, metrics, experiments, exploration, monitoring)


def _recommender(
    settings: Settings,
    experiments: Experiments,
    exploration: Exploration,
    monitoring: Monitoring,
    folder: Path,
) -> Recommender:
    release = Release.load(folder)
    about = release.about
    if about.project != settings.project:
        raise ArtifactError(
            f"The release {about.version} is of the shop {about.project!r}, and this server is of "
            f"{settings.project!r}. Start a server of its own for it."
        )
    timeout_s = STORE_SHARE * settings.deadline_ms / 1000.0
    store = OnlineStore(about.project, release.schema, about.user_id, timeout_s=timeout_s)
    items = ItemLog(settings.items / f"{about.project}.log", about.project)
    watched = monitoring.store(store, release.schema, about.user_id)
    recommender = Recommender(release, watched, items=items)
    recommender.exploration = exploration
    experiments.prepare(recommender)
    return recommender


def _load(server: Server) -> None:
    server.feedback.load()
    server.experiments.look()
    server.live.load()
    server.experiments.watch(server.live.get)
    server.live.follow_items(server.settings.items_s)
    if server.settings.watch_s:
        server.live.watch(server.settings.watch_s)
    if server.monitoring is not None:
        server.monitoring.start()
