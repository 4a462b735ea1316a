"""The bodies of HTTP requests: what may be asked, and its limits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema

from feature_repo.contract.events import EventType
from serving.catalogue import Filters
from serving.query import MAX_ITEMS

MAX_EXCLUDED = 10_000
MAX_EVENTS = 1000
"""Most events of one request."""
MAX_NAMES = 1000
"""Most values of one filter."""


def _integer_or_string(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id is an integer or a string, not {type(value).__name__}")
    return value


RawId = Annotated[int | str, BeforeValidator(_integer_or_string)]
"""An id in the type that the shop's data have."""

Text = Annotated[str, Field(max_length=128)]
Names = Annotated[list[str], Field(max_length=MAX_NAMES)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FilterRequest(BaseModel):
    """What an item must be to be recommended; an item whose value is unknown does not pass."""

    model_config = ConfigDict(extra="forbid")

    department: Names = []
    """One of these; empty: any."""
    category: Names = []
    subcategory: Names = []
    brand: Names = []
    price_min: Price | None = None
    price_max: Price | None = None

    def checked(self) -> Filters:
        """The filters of the recommender.

        Raises:
            BadField: they contradict each other.
        """
        return Filters(**self.model_dump())


class RecommendRequest(BaseModel):
    """A request for one user's list."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": 1, "n": 5, "exclude_seen": False}]},
    )

    user_id: RawId
    """An unknown user gets popular items."""
    n: Annotated[int, Field(ge=1, le=MAX_ITEMS, strict=True)] = 10
    """Length of the list."""
    exclude_seen: StrictBool = False
    """Leave out what the user is known to have bought."""
    exclude: Annotated[list[RawId], Field(max_length=MAX_EXCLUDED)] = []
    """Items to leave out, such as those in the basket."""
    filters: FilterRequest = FilterRequest()
    diversity: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    """0, the best scores, to 1, the least alike items; by default the release's strength."""
    explain: StrictBool = False
    """Tell where each item comes from, and what raised it most."""


class FeedbackEvent(BaseModel):
    """What a user did."""

    model_config = ConfigDict(extra="forbid")

    event_id: Annotated[Text, Field(min_length=1)]
    """Chosen by the caller, unique; the same id sent again is not counted again."""
    user_id: RawId
    item_id: RawId
    event_type: EventType
    event_timestamp: datetime | None = None
    """When it happened, ISO 8601 (UTC where it names no zone); by default the release's now."""
    recommendation_id: Text | None = None
    """Of the answer that it follows from."""
    session_id: Text | None = None
    position: Annotated[int, Field(ge=1)] | None = None
    """Place in the list, from 1."""
    quantity: Annotated[int, Field(ge=1)] = 1
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
    """Events of any number of users; each is taken or rejected by itself."""

    model_config = ConfigDict(extra="forbid")

    events: Annotated[
        list[Annotated[Any, WithJsonSchema(EVENT_SCHEMA)]],
        Field(min_length=1, max_length=MAX_EVENTS),
    ]
