"""Refusals and failures over HTTP: a sentence, and what is wrong field by field."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from feature_repo.contract.errors import BadInput, ShoprecError
from serving.ids import BadField

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1


class NotNow(ShoprecError):
    """The request is sound, and may be answered a moment later."""

    status = 503


class NotReady(NotNow):
    """The release is not loaded yet, or the server is about to end."""


class TooManyRequests(NotNow):
    """As many requests as may wait are waiting."""

    status = 429


class StorageFailed(NotNow):
    """What must be on disk before it is acknowledged could not be written."""


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str
    """A sentence."""
    problems: list[FieldProblem]
    """Empty where no field is to blame."""


_EXAMPLE = {
    "error": "n: input should be greater than or equal to 1; got 0.",
    "problems": [
        {"field": "n", "message": "n: input should be greater than or equal to 1; got 0."}
    ],
}
_WHY = {
    400: "The body cannot be read.",
    401: "The API key is missing or wrong.",
    413: "The body is too large.",
    422: "The request cannot be answered as it is.",
    429: "Too many requests wait; try again after `Retry-After` seconds.",
    503: "Not at this moment; try again after `Retry-After` seconds.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": why, "model": Problem} for status, why in _WHY.items()
}
"""Of routes, for their description."""
RESPONSES[422]["content"] = {"application/json": {"example": _EXAMPLE}}


def add_handlers(app: FastAPI) -> None:
    """Answer every error of an app as a ``Problem``."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def response_to(request: Request, error: Exception) -> JSONResponse:
    """What is answered to a request that ended with one of ``ANSWERED``."""
    handler = next(_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS)
    return await handler(request, error)


def problem(
    status: int,
    error: str,
    fields: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A ``Problem`` as a response."""
    body = {"error": printable(error), "problems": fields or []}
    return JSONResponse(body, status_code=status, headers=headers)


def printable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode()


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_sentence(one) for one in error.errors()]
    return problem(422, " ".join(one["message"] for one in found), found)


def _sentence(found: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's errors as a field and a sentence."""
    if found["type"] == "json_invalid":
        reason = found.get("ctx", {}).get("error", found["msg"])
        return {"field": "body", "message": f"The body is not JSON: {printable(reason)}."}
    name = printable(".".join(str(part) for part in found["loc"][1:])) or "body"
    text = found["msg"].removeprefix("Value error, ")
    got = "" if found["type"] == "missing" else f"; got {_short(found['input'])}"
    text = f"{name}: {text[:1].lower()}{text[1:]}{got}."
    return {"field": name, "message": printable(text)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


async def _bad_input(request: Request, error: Exception) -> JSONResponse:
    name = error.field if isinstance(error, BadField) else "body"
    return problem(422, str(error), [{"field": name, "message": printable(str(error))}])


async def _not_now(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotNow)
    return problem(error.status, str(error), headers={"retry-after": str(RETRY_AFTER_S)})


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = _WHY.get(error.status_code) or f"{error.detail}."
    return problem(error.status_code, text, headers=dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed: %s", request.method, request.url.path, error)
    return problem(500, str(error))


_HANDLERS: dict[type[Any], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
    RequestValidationError: _malformed,
    HTTPException: _refused,
    NotNow: _not_now,
    BadInput: _bad_input,
    ShoprecError: _failed,
}
ANSWERED = tuple(_HANDLERS)
"""Errors that end as a ``Problem``."""
