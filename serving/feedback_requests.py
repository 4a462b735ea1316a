"""The bodies of feedback: what a user did, one event or many."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from feature_repo.contract.events import EventType
from serving.requests import Price, RawItemId, RawUserId, Text

MAX_EVENTS = 1000
"""Most events of one request."""


class FeedbackEvent(BaseModel):
    """What a user did."""

    model_config = ConfigDict(extra="forbid")

    event_id: Annotated[Text, Field(min_length=1)]
    """Chosen by the caller, unique; the same id sent again is not counted again."""
    user_id: RawUserId
    item_id: RawItemId
    event_type: EventType
    event_timestamp: datetime | None = None
    """When it happened, ISO 8601 (UTC where it names no zone); by default the release's now."""
    recommendation_id: Text | None = None
    """Of the answer that it follows from."""
    session_id: Text | None = None
    position: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Place in the list, from 1."""
    quantity: Annotated[int, Field(ge=1, le=10**9)] = 1
    price: Price | None = None
    """Paid per unit."""


EVENT_SCHEMA = {
    "type": "object",
    "title": "FeedbackEvent",
    "required": ["event_id", "user_id", "item_id", "event_type"],
    "properties": {
        **FeedbackEvent.model_json_schema()["properties"],
        "event_type": {"type": "string", "enum": [kind.value for kind in EventType]},
    },
}


class FeedbackRequest(BaseModel):
    """Events of any number of users; each is taken or rejected by itself.

    An event may also be sent alone, and a list of them without the object around it.
    """

    model_config = ConfigDict(extra="forbid")

    events: Annotated[
        list[Annotated[Any, WithJsonSchema(EVENT_SCHEMA)]],
        Field(min_length=1, max_length=MAX_EVENTS),
    ]

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"events": value}
        alone = isinstance(value, dict) and "event_id" in value and "events" not in value
        return {"events": [value]} if alone else value
