from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.errors import ArtifactError, BadInput, SchemaMismatch
from feature_repo.contract.schema import Derive, Encoding, Entity, Feature, Schema

AGE = Feature("age_band", Entity.USER, "user_profile", "String", Encoding.CATEGORICAL, 64)
SPEND = Feature("spend", Entity.USER, "user_activity", "Float32", Encoding.NUMERIC, 16)
BOUGHT = Feature(
    "history_item_id",
    Entity.USER,
    "user_history",
    "Array(Int64)",
    Encoding.BAG,
    bag_of="item_id",
    bag_weight="history_weight",
)
SOLD = Feature(
    "first_sold_s",
    Entity.ITEM,
    "item_activity",
    "Int64",
    Encoding.NUMERIC,
    16,
    derive=Derive.DAYS_SINCE,
)
TITLE = Feature("title", Entity.ITEM, "item_attributes", "String", Encoding.NONE)
SCHEMA = Schema("ranking_v1", (AGE, SPEND, BOUGHT, SOLD, TITLE))


@pytest.mark.parametrize(
    ("feature", "dtype", "tags"),
    [
        (AGE, "String", {"encode": "categorical", "buckets": "64"}),
        (SPEND, "Float32", {"encode": "numeric", "transform": "quantile", "buckets": "16"}),
        (BOUGHT, "Array(Int64)", {"encode": "bag", "of": "item_id", "weight": "history_weight"}),
        (SOLD, "Int64", {"encode": "numeric", "buckets": "16", "derive": "days_since"}),
        (TITLE, "String", {"encode": "none"}),
    ],
)
def test_a_feature_is_read_from_its_tags(
    feature: Feature, dtype: str, tags: dict[str, str]
) -> None:
    assert Feature.from_tags(feature.name, feature.entity, feature.view, dtype, tags) == feature


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "it needs 'encode'"),
        ({"buckets": "8"}, "it needs 'encode'"),
        ({"encode": "numeric", "bukets": "8"}, "bukets"),
        ({"encode": "onehot"}, "'onehot' is not a valid Encoding"),
        ({"encode": "numeric"}, "needs a tag 'buckets' of at least 2; got 0"),
        ({"encode": "categorical", "buckets": "1"}, "needs a tag 'buckets' of at least 2; got 1"),
        ({"encode": "categorical", "buckets": "many"}, "many"),
        ({"encode": "numeric", "buckets": "8", "derive": "weeks"}, "'weeks' is not a valid"),
        ({"encode": "bag"}, "is a bag and needs a tag 'of'"),
    ],
)
def test_wrong_tags_are_refused_with_the_feature_named(tags: dict[str, str], reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as error:
        Feature.from_tags("age_band", Entity.USER, "user_profile", "String", tags)

    assert "age_band" in str(error.value)
    assert "user_profile" in str(error.value)


def test_two_features_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match=r"ranking_v1 has two features named \['age_band'\]"):
        Schema("ranking_v1", (AGE, SPEND, replace(AGE, view="other")))


def test_features_are_chosen_by_entity_and_encoding_in_order() -> None:
    assert SCHEMA.of(Entity.USER) == (AGE, SPEND, BOUGHT)
    assert SCHEMA.of(Entity.PAIR) == ()
    assert SCHEMA.encoded(Entity.ITEM, Encoding.NUMERIC) == (SOLD,)
    assert SCHEMA.encoded(Entity.USER, Encoding.BAG, Encoding.CATEGORICAL) == (AGE, BOUGHT)


def test_extending_leaves_the_schema_as_it_was() -> None:
    due = Feature("due_ratio", Entity.PAIR, "pair", "Float32", Encoding.NUMERIC, 16)

    extended = SCHEMA.extended([due])

    assert extended.features == (*SCHEMA.features, due)
    assert due not in SCHEMA.features


def test_the_fingerprint_is_that_of_the_features_alone() -> None:
    assert Schema("another_service", SCHEMA.features).fingerprint == SCHEMA.fingerprint
    assert len(SCHEMA.fingerprint) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"name": "age"},
        {"entity": Entity.ITEM},
        {"view": "profile"},
        {"dtype": "Int64"},
        {"encoding": Encoding.NUMERIC},
        {"buckets": 65},
        {"derive": Derive.DAYS_SINCE},
        {"bag_of": "item_id"},
        {"bag_weight": "history_weight"},
        {"ttl_s": 60},
    ],
)
def test_every_property_of_a_feature_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    changed = Schema("ranking_v1", (replace(AGE, **change), *SCHEMA.features[1:]))

    assert changed.fingerprint != SCHEMA.fingerprint


def test_a_time_to_live_is_kept_and_none_leaves_no_trace() -> None:
    lasting = Schema("s", (replace(AGE, ttl_s=60),))

    assert Schema.from_json(lasting.to_json()) == lasting
    assert "ttl_s" not in Schema("s", (AGE,)).to_json()["features"][0]


def test_the_order_of_features_is_in_the_fingerprint() -> None:
    assert Schema("ranking_v1", SCHEMA.features[::-1]).fingerprint != SCHEMA.fingerprint


def test_the_same_features_are_no_mismatch() -> None:
    SCHEMA.require_same(Schema("ranking_v1", SCHEMA.features), "the release")


def test_a_mismatch_names_the_features_that_differ() -> None:
    other = Schema("ranking_v1", (replace(AGE, buckets=8), SPEND, BOUGHT, SOLD))

    with pytest.raises(SchemaMismatch, match=r"the release.*\['age_band', 'title'\] differ"):
        SCHEMA.require_same(other, "the release")


def test_a_saved_schema_comes_back_equal(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path / "schema.json")

    loaded = Schema.load(tmp_path / "schema.json")

    assert loaded == SCHEMA
    assert loaded.fingerprint == SCHEMA.fingerprint


@pytest.mark.parametrize(
    "value",
    [
        {"format": 2, "service": "ranking_v1", "features": []},
        {"service": "ranking_v1", "features": []},
        {"format": 1, "features": []},
        {"format": 1, "service": "ranking_v1", "features": [{"name": "age_band"}]},
        {"format": 1, "service": "r", "features": [SCHEMA.to_json()["features"][0] | {"x": 1}]},
        {
            "format": 1,
            "service": "r",
            "features": [SCHEMA.to_json()["features"][0] | {"encoding": "onehot"}],
        },
        ["ranking_v1"],
    ],
)
def test_what_is_no_schema_is_refused_with_the_file_named(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "schema.json", value)

    with pytest.raises(ArtifactError, match=r"schema\.json"):
        Schema.load(tmp_path / "schema.json")
