"""The bodies of changes of items."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from serving.item_log import Values
from serving.requests import Price, RawItemId

MAX_CHANGES = 1000
"""Most items of one request."""

Words = Annotated[str, Field(max_length=512)]


class ItemRecord(BaseModel):
    """What changed of an item; what is not named stays as it is, and null is unknown."""

    model_config = ConfigDict(extra="forbid")

    item_id: RawItemId
    """An item that the release does not know is new: it is found by the item tower."""
    title: Words | None = None
    department: Words | None = None
    category: Words | None = None
    subcategory: Words | None = None
    brand: Words | None = None
    brand_tier: Words | None = None
    package_size: Words | None = None
    price: Price | None = None
    """Per unit."""
    available: StrictBool | None = None
    """Whether it may be sold."""

    def values(self) -> Values:
        """What the record names beside the id."""
        return self.model_dump(exclude_unset=True, exclude={"item_id"})


class ItemsRequest(BaseModel):
    """Items that changed, or are new."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"items": [{"item_id": 1, "price": 2.49, "available": True}]}]
        },
    )

    items: Annotated[list[ItemRecord], Field(min_length=1, max_length=MAX_CHANGES)]
