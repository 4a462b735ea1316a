"""``/feedback/``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter

from serving.answers import FeedbackResult
from serving.feedback import FeedbackReader
from serving.feedback_requests import FeedbackRequest
from serving.problems import RESPONSES
from serving.server import Server


def feedback_routes(server: Server) -> APIRouter:
    """The route that takes events."""
    router = APIRouter(tags=["feedback"], responses=RESPONSES)

    @router.post("/feedback/", status_code=202)
    async def take_feedback(request: FeedbackRequest) -> FeedbackResult:
        """Take one event or many; those that are wrong are named and the others taken.

        What is accepted is on disk. The same `event_id` sent again is not counted again, so that
        a request without an answer can be repeated.
        """
        about = server.live.get().release.about
        reader = FeedbackReader(about.user_id, about.item_id, about.now)
        lines, rejected = reader.read(request.events)
        write = partial(server.feedback.append, lines, datetime.now(UTC))
        accepted = await server.writing.run(write)
        server.tail.catch_up()
        result = FeedbackResult(accepted, len(lines) - accepted, rejected)
        server.metrics.count_feedback(
            accepted=accepted, duplicate=result.duplicates, rejected=len(rejected)
        )
        return result

    return router
