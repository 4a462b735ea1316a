"""The OpenAPI description, in which ids have the type of the shop that is served."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from feature_repo.contract.dataset import IdType
from serving.about import About
from serving.live import Live
from serving.requests import ID_OF

_SCHEMAS: dict[IdType, dict[str, Any]] = {
    IdType.INT64: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    IdType.STRING: {"type": "string"},
}


def describe_shop(app: FastAPI, live: Live) -> None:
    """Let an app describe itself as of the release that it answers from."""

    def described() -> dict[str, Any]:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        about = live.get().release.about if live.ready else None
        return with_ids(found, about)  # type: ignore[no-any-return]

    app.openapi = described  # type: ignore[method-assign]


def with_ids(value: Any, about: About | None) -> Any:
    """Part of a description with the shop's types in place of the marked ids; None: not known."""
    if isinstance(value, list):
        return [with_ids(part, about) for part in value]
    if not isinstance(value, dict):
        return value
    if ID_OF in value:
        rest = {name: part for name, part in value.items() if name != ID_OF}
        if about is None:
            return rest
        kind = about.user_id if value[ID_OF] == "user" else about.item_id
        named = {name: rest[name] for name in ("title", "description") if name in rest}
        return {**named, **_SCHEMAS[kind]}
    return {name: with_ids(part, about) for name, part in value.items()}
