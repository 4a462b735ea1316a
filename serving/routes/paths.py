"""Parts of paths."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from serving.requests import ID_OF

ItemPath = Annotated[
    str,
    Path(
        max_length=256,
        description="In the type that the shop's data have.",
        json_schema_extra={ID_OF: "item"},
    ),
]
