"""The bodies of requests for lists: what may be asked, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
)

from serving.catalogue import Filters
from serving.ids import Id
from serving.query import ANY, MAX_ANCHORS, MAX_CANDIDATES, MAX_ITEMS, Query

MAX_EXCLUDED = 10_000
MAX_NAMES = 1000
"""Most values of one filter."""
MAX_BATCH = 100
"""Most requests of one batch."""


EXACT = 2**53
"""Up to here every whole number is a number of JavaScript, which may write it as 5.0."""


def _whole(value: Any) -> Any:
    """To JSON Schema 5.0 is an integer."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) <= EXACT
    return int(value) if whole else value


def _integer_or_string(value: Any) -> Any:
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id is an integer or a string, not {type(value).__name__}")
    return value


ID_OF = "x-id-of"
"""Marks ids in the description; see ``serving.description``."""
_EITHER = [{"type": "integer"}, {"type": "string"}]
RawUserId = Annotated[
    int | str,
    BeforeValidator(_integer_or_string),
    WithJsonSchema({"anyOf": _EITHER, ID_OF: "user"}),
]
"""An id in the type that the shop's data have."""
RawItemId = Annotated[
    int | str,
    BeforeValidator(_integer_or_string),
    WithJsonSchema({"anyOf": _EITHER, ID_OF: "item"}),
]

Text = Annotated[str, Field(max_length=128)]
Names = Annotated[list[str], Field(max_length=MAX_NAMES)]
Price = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class FilterRequest(BaseModel):
    """What an item must be to be recommended; an item whose value is unknown does not pass."""

    model_config = ConfigDict(extra="forbid")

    department: Names = Field(default_factory=list)
    """One of these; empty: any."""
    category: Names = Field(default_factory=list)
    subcategory: Names = Field(default_factory=list)
    brand: Names = Field(default_factory=list)
    price_min: Price | None = None
    price_max: Price | None = None
    available: StrictBool | None = True
    """Whether it may be sold, where unknown counts as yes; null: either."""

    def checked(self) -> Filters:
        """The filters of the recommender.

        Raises:
            BadField: they contradict each other.
        """
        return Filters(**self.model_dump()) if self.model_fields_set else ANY


class ContextRequest(BaseModel):
    """What the shop knows of the moment."""

    model_config = ConfigDict(extra="forbid")

    preferred_categories: Annotated[list[str], Field(max_length=50)] = Field(default_factory=list)
    """Of these, popular items come earlier where little is known of the user."""
    attributes: Annotated[dict[Text, Text], Field(max_length=50)] = Field(default_factory=dict)
    """What A/B experiments may be targeted by, such as `{"platform": "app"}`."""


NO_FILTER, NO_CONTEXT = FilterRequest(), ContextRequest()
"""What most requests say; nobody changes them. (A default that can change is copied each time.)"""


class ListRequest(BaseModel):
    """What all requests for a list may say."""

    model_config = ConfigDict(extra="forbid")

    user_id: RawUserId
    """An unknown user gets popular items."""
    exclude_seen: StrictBool = False
    """Leave out what the user is known to have bought."""
    exclude: Annotated[list[RawItemId], Field(max_length=MAX_EXCLUDED)] = Field(
        default_factory=list
    )
    """Items to leave out, such as those in the basket."""
    filters: FilterRequest = Field(default_factory=lambda: NO_FILTER)
    diversity: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    """0, the best scores, to 1, the least alike items; by default the release's strength."""
    explain: StrictBool = False
    """Tell where each item comes from, and what raised it most."""
    scenario: Text | None = None
    """Name of one of the release's rankers (see `/version`), such as `discover`; where the release
    has none of that name its usual one answers, and `degraded` says `scenario`."""
    anchor_items: Annotated[list[RawItemId], Field(max_length=MAX_ANCHORS)] = Field(
        default_factory=list
    )
    """Items that the user looks at, latest first; lists follow them and do not hold them."""
    session_id: Text | None = None
    """The items of the session's recent feedback become anchors too."""
    context: ContextRequest = Field(default_factory=lambda: NO_CONTEXT)
    variant: Annotated[dict[Text, Text], Field(max_length=20)] = Field(default_factory=dict)
    """For testers: A/B experiment -> the variant to answer by, such as `{"strategies": "popular"}`,
    whoever would see it and when. Reports leave such answers out."""

    def _query(self, session_items: Sequence[Id], n: int, only: Sequence[Id] | None) -> Query:
        anchors = list(dict.fromkeys([*self.anchor_items, *session_items]))
        return Query(
            user_id=self.user_id,
            n=n,
            exclude_seen=self.exclude_seen,
            exclude=self.exclude,
            filters=self.filters.checked(),
            diversity=self.diversity,
            explain=self.explain,
            scenario=self.scenario,
            anchor_items=anchors[:MAX_ANCHORS],
            candidate_items=only,
            preferred_categories=self.context.preferred_categories,
            attributes=self.context.attributes,
            variant=self.variant,
        )


class RecommendRequest(ListRequest):
    """A request for one user's list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": 1, "n": 5, "exclude_seen": False}]}
    )

    n: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_ITEMS, strict=True)] = 10
    """Length of the list."""
    candidate_items: Annotated[list[RawItemId], Field(max_length=MAX_CANDIDATES)] | None = None
    """The only items that the list may hold; by default any."""

    def query(self, session_items: Sequence[Id] = ()) -> Query:
        """The request as the recommender takes it.

        Args:
            session_items: of the session, latest first.

        Raises:
            BadField: the filters contradict each other.
        """
        return self._query(session_items, self.n, self.candidate_items)


class BatchRequest(BaseModel):
    """Requests that are answered together."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"requests": [{"user_id": 1, "n": 5}]}]}
    )

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_BATCH)]


class RankRequest(ListRequest):
    """A request to rank given items for one user."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": 1, "candidate_items": [1, 2, 3]}]}
    )

    candidate_items: Annotated[list[RawItemId], Field(min_length=1, max_length=MAX_CANDIDATES)]
    """Items of the release come first, by rank; the others last, without a score."""

    def query(self, session_items: Sequence[Id] = ()) -> Query:
        """See ``RecommendRequest.query``."""
        return self._query(session_items, len(self.candidate_items), self.candidate_items)
