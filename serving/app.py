"""The HTTP interface, an ASGI app: ``/recommend/``, ``/feedback/``, health and version."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.errors import BadInput, ShoprecError
from serving.about import FEEDBACK_VARIABLE, RELEASE_VARIABLE
from serving.answers import Recommendation
from serving.feedback import FeedbackLog, FeedbackReader, FeedbackResult
from serving.ids import BadField
from serving.recommender import Recommender
from serving.requests import FeedbackRequest, RecommendRequest

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def create_app(recommender: Recommender, feedback: FeedbackLog) -> FastAPI:
    """The app over one recommender."""
    about = recommender.release.about
    app = FastAPI(
        title="shoprec",
        version=metadata.version("shoprec"),
        description=f"Recommendations for {about.dataset}, release {about.version}.",
    )
    limiter = CapacityLimiter(os.cpu_count() or 1)
    _add_answers(app, recommender, limiter)
    _add_feedback(app, recommender, feedback, limiter)
    _add_health(app, recommender)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(BadInput, _bad_input)
    app.add_exception_handler(ShoprecError, _failed)
    return app


def from_environment() -> FastAPI:
    """The app as the environment describes it; what each worker process starts.

    Raises:
        ArtifactError: the release is missing or does not answer as it should.
    """
    recommender = Recommender.load(os.environ.get(RELEASE_VARIABLE, "releases/current"))
    recommender.warm_up()
    return create_app(recommender, FeedbackLog(feedback_path(recommender.release.about.project)))


def feedback_path(project: str) -> Path:
    """Where a shop's feedback log lies."""
    folder = os.environ.get(FEEDBACK_VARIABLE)
    return (Path(folder) if folder else REPOSITORY / "data" / "feedback") / f"{project}.jsonl"


async def _in_thread(limiter: CapacityLimiter, function: Callable[[], Answer]) -> Answer:
    """Run computation beside the event loop, at most one call a core."""
    return await anyio.to_thread.run_sync(function, limiter=limiter)


def _add_answers(app: FastAPI, recommender: Recommender, limiter: CapacityLimiter) -> None:
    @app.post("/recommend/", tags=["recommendations"], responses=_PROBLEMS)
    async def recommend(request: RecommendRequest) -> Recommendation:
        """The best items for one user; popular items where nothing is known of the user."""
        answer = partial(
            recommender.recommend,
            request.user_id,
            request.n,
            request.exclude_seen,
            request.exclude,
            request.filters.checked(),
            request.diversity,
            request.explain,
        )
        return await _in_thread(limiter, answer)


def _add_feedback(
    app: FastAPI, recommender: Recommender, feedback: FeedbackLog, limiter: CapacityLimiter
) -> None:
    about = recommender.release.about
    reader = FeedbackReader(about.user_id, about.item_id, about.now)

    @app.post("/feedback/", status_code=202, tags=["feedback"], responses=_PROBLEMS)
    async def take_feedback(request: FeedbackRequest) -> FeedbackResult:
        """Take events; those that are wrong are named and the others taken."""
        lines, rejected = reader.read(request.events)
        write = partial(feedback.append, lines, datetime.now(UTC))
        accepted = await _in_thread(limiter, write)
        return FeedbackResult(accepted, len(lines) - accepted, rejected)


def _add_health(app: FastAPI, recommender: Recommender) -> None:
    version = recommender.release.about.version

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @app.get("/health/ready", tags=["health"])
    async def ready() -> dict[str, str]:
        """Whether requests can be answered; they can without the online store, by popularity."""
        return {"status": "ready", "model_version": version}

    @app.get("/version", tags=["health"])
    async def show_version() -> dict[str, Any]:
        """What the answers are made with."""
        return {"shoprec": app.version, **recommender.release.settings()}

    @app.get("/", include_in_schema=False)
    async def hint() -> dict[str, str]:
        return {
            "shoprec": f"POST /recommend/ with a user_id; this is release {version}.",
            "documentation": "/docs",
            "health": "/health/ready",
        }


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {
        "description": "The request cannot be answered as it is.",
        "content": {
            "application/json": {
                "example": {
                    "error": "n must be from 1 to 100; got 0.",
                    "problems": [{"field": "n", "message": "n must be from 1 to 100; got 0."}],
                }
            }
        },
    }
}


def _problem(status: int, problems: list[dict[str, str]]) -> JSONResponse:
    text = " ".join(problem["message"] for problem in problems)
    return JSONResponse({"error": text, "problems": problems}, status_code=status)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _problem(422, [_sentence(found) for found in error.errors()])


def _sentence(found: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's errors as a field and a sentence."""
    if found["type"] == "json_invalid":
        reason = found.get("ctx", {}).get("error", found["msg"])
        return {"field": "body", "message": f"The body is not JSON: {reason}."}
    name = ".".join(str(part) for part in found["loc"][1:]) or "body"
    text = found["msg"].removeprefix("Value error, ")
    got = "" if found["type"] == "missing" else f"; got {_short(found['input'])}"
    return {"field": name, "message": f"{name}: {text[:1].lower()}{text[1:]}{got}."}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


async def _bad_input(request: Request, error: Exception) -> JSONResponse:
    name = error.field if isinstance(error, BadField) else "body"
    return _problem(422, [{"field": name, "message": str(error)}])


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed: %s", request.method, request.url.path, error)
    return JSONResponse({"error": str(error), "problems": []}, status_code=500)
