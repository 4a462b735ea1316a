"""Bodies of the requests that come most often, read and written by pydantic alone.

FastAPI parses a body, checks it, checks the answer against its model and copies it before it is
written. That takes longer than a list of a batch; here each is done once, in compiled code.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

B = TypeVar("B", bound=BaseModel)
A = TypeVar("A")


class Reader(Generic[B]):
    """Reads the bodies of one route."""

    def __init__(self, kind: type[B]) -> None:
        self._kind = kind
        self.description: dict[str, Any] = {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": f"#/components/schemas/{kind.__name__}"}
                    }
                },
            }
        }
        """Of the route, for OpenAPI; another route's argument defines the schema."""

    async def read(self, request: Request) -> B:
        """The checked body.

        Raises:
            RequestValidationError: it is not JSON, or a field is wrong.
        """
        content = await request.body()
        try:
            return self._kind.model_validate_json(content)
        except ValidationError as error:
            found = [
                {**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)
            ]
            raise RequestValidationError(found) from None


class Writer(Generic[A]):
    """Writes the answers of one route."""

    def __init__(self, kind: type[A]) -> None:
        self._adapter = TypeAdapter(kind)

    def response(self, answer: A) -> Response:
        """The answer as JSON."""
        return Response(self._adapter.dump_json(answer), media_type="application/json")
