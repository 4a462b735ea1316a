"""Every feature of the shop: the one place where a feature is declared.

To add one, add a ``Field`` whose tags say how a model reads it, have a job write its column, and
run ``feast -c feature_repo apply``. Tags (read by ``feature_repo.contract.schema``):

    encode=categorical, buckets=N     hashed into the rows of a table
    encode=numeric, buckets=N         cut at N quantiles; derive=days_since: of now minus a time
    encode=bag, of=ID, weight=LIST    a list of ids
    encode=state                      read through the user's state
    encode=none                       catalogue data that no model reads

The data set is that of ``SHOPREC_DATASET_JSON``, by default ``complete_journey``.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, FeastType, Float32, Int64, String

_DEFAULT = Path(__file__).resolve().parents[1] / "data" / "complete_journey" / "dataset.json"
_DATASET_JSON = Path(os.environ.get("SHOPREC_DATASET_JSON") or _DEFAULT).resolve()
_DATASET = json.loads(_DATASET_JSON.read_text(encoding="utf-8"))
_ID_TYPES: dict[str, FeastType] = {"int64": Int64, "string": String}
_ITEM_ID = _ID_TYPES[_DATASET["item_id"]]
_FOREVER = timedelta(0)


def _entity(name: str) -> Entity:
    value_type = ValueType.INT64 if _DATASET[f"{name}_id"] == "int64" else ValueType.STRING
    return Entity(name=name, join_keys=[f"{name}_id"], value_type=value_type)


def _source(view: str) -> FileSource:
    path = _DATASET_JSON.parent / "features" / f"{view}.parquet"
    return FileSource(
        name=f"{view}_source",
        path=str(path),  # absolute: Feast takes a relative one from the current folder
        timestamp_field="event_timestamp",
        file_format=ParquetFormat(),
    )


def _categorical(name: str, buckets: int, dtype: FeastType = String) -> Field:
    tags = {"encode": "categorical", "buckets": str(buckets)}
    return Field(name=name, dtype=dtype, tags=tags)


def _numeric(name: str, dtype: FeastType = Float32, buckets: int = 16, derive: str = "") -> Field:
    tags = {"encode": "numeric", "transform": "quantile", "buckets": str(buckets)}
    return Field(name=name, dtype=dtype, tags={**tags, "derive": derive} if derive else tags)


def _state(name: str, dtype: FeastType) -> Field:
    return Field(name=name, dtype=dtype, tags={"encode": "state"})


user = _entity("user")
item = _entity("item")

user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    ttl=_FOREVER,
    source=_source("user_profile"),
    schema=[
        _categorical("age_band", 16),
        _categorical("gender", 8),
        _categorical("income_band", 32),
        _categorical("household_size", 16),
        _categorical("household_type", 16),
        _categorical("home_ownership", 16),
        _categorical("marital_status", 8),
        _categorical("children", 16),
        _categorical("region", 256),
        _categorical("segment", 64),
    ],
)

user_history = FeatureView(
    name="user_history",
    entities=[user],
    ttl=_FOREVER,
    source=_source("user_history"),
    schema=[
        Field(
            name="history_item_id",
            dtype=Array(_ITEM_ID),
            tags={"encode": "bag", "of": "item_id", "weight": "history_weight"},
        ),
        _state("history_count", Array(Int64)),
        _state("history_weight", Array(Float32)),
        _state("history_first_s", Array(Int64)),
        _state("history_last_s", Array(Int64)),
        _state("history_gap_sq", Array(Float32)),
        _state("history_gap_last", Array(Float32)),
    ],
)

user_activity = FeatureView(
    name="user_activity",
    entities=[user],
    ttl=_FOREVER,
    source=_source("user_activity"),
    schema=[
        _numeric("events_total", Int64),
        _numeric("sessions_total", Int64),
        _numeric("events_decayed"),
        _numeric("sessions_decayed"),
        _numeric("spend_decayed"),
        _numeric("discount_rate"),
        _numeric("first_event_s", Int64, derive="days_since"),
        _numeric("last_event_s", Int64, derive="days_since"),
    ],
)

# Read only to leave out what a user bought; `user_history` forgets after its last 200 items.
user_seen = FeatureView(
    name="user_seen",
    entities=[user],
    ttl=_FOREVER,
    source=_source("user_seen"),
    schema=[_state("seen_item_id", Array(_ITEM_ID))],
)

item_attributes = FeatureView(
    name="item_attributes",
    entities=[item],
    ttl=_FOREVER,
    source=_source("item_attributes"),
    schema=[
        Field(name="title", dtype=String, tags={"encode": "none"}),
        _categorical("department", 64),
        _categorical("category", 1024),
        _categorical("subcategory", 8192),
        _categorical("brand", 16384),
        _categorical("brand_tier", 8),
        _categorical("package_size", 4096),
        _numeric("price"),
        Field(name="available", dtype=Bool, tags={"encode": "none"}),
    ],
)

item_activity = FeatureView(
    name="item_activity",
    entities=[item],
    ttl=_FOREVER,
    source=_source("item_activity"),
    schema=[
        _numeric("buyers_total", Int64),
        _numeric("buyers_28d", Int64),
        _numeric("buyers_7d", Int64),
        _numeric("purchases_28d", Int64),
        _numeric("first_buyers_28d", Int64),
        _numeric("repeat_rate"),
        _numeric("gap_usual"),
        _numeric("trend"),
        _numeric("price_28d"),
        _numeric("price_usual"),
        _numeric("discount_28d"),
        _numeric("display_share"),
        _numeric("mailer_share"),
        _numeric("coupons_active", Int64),
        _numeric("first_sold_s", Int64, derive="days_since"),
    ],
)

# A snapshot of item_activity at the cut-off contains the baskets that retrieval is trained on.
retrieval_v1 = FeatureService(
    name="retrieval_v1",
    features=[user_profile, user_activity, user_history, item_attributes],
)

ranking_v1 = FeatureService(
    name="ranking_v1",
    features=[
        user_profile,
        user_activity,
        user_history,
        user_seen,
        item_attributes,
        item_activity,
    ],
)
