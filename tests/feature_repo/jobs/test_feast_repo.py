from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64

from feature_repo.contract.errors import BadInput
from feature_repo.contract.schema import Entity, Schema
from feature_repo.jobs import feast_repo
from feature_repo.jobs.redis_engine import RedisComputeEngine
from tests.feature_repo.conftest import AppliedShop
from tests.feature_repo.jobs.online_shop import USERS, entity, open_shop, write_source
from tests.feature_repo.jobs.shops import day, purchase, write_shop


def test_a_data_set_has_settings_of_its_own(tmp_path: Path) -> None:
    dataset = write_shop(tmp_path, [purchase(1, 10, day(50))])

    feast_repo.write_settings(dataset)

    written = feast_repo.settings_path(dataset).read_text(encoding="utf-8")
    assert "project: small_shop" in written
    assert f"registry: {tmp_path}/registry.db" in written


def test_the_default_settings_and_the_generated_ones_agree(
    tmp_path: Path, repository: Path
) -> None:
    dataset = write_shop(tmp_path, [purchase(1, 10, day(50))], name="complete_journey")
    feast_repo.write_settings(dataset)

    def settings(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith(("#", "registry:"))]

    default = repository / "feature_repo" / "feature_store.yaml"
    assert settings(default) == settings(feast_repo.settings_path(dataset))


def test_the_variables_do_not_repeat_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    dataset = write_shop(tmp_path, [purchase(1, 10, day(50))])
    monkeypatch.setenv("PYTHONPATH", f"{repository}:/elsewhere")

    assert feast_repo.feast_environment(dataset)["PYTHONPATH"] == f"{repository}:/elsewhere"


def test_a_snapshot_keeps_the_order_of_the_service(applied_shop: AppliedShop) -> None:
    store = feast_repo.open_store(applied_shop.dataset)
    service = feast_repo.find_service(store, "retrieval_v1")

    schema = feast_repo.schema_of(store, service)

    views = list(dict.fromkeys(feature.view for feature in schema.features))
    assert views == ["user_profile", "user_activity", "user_history", "item_attributes"]
    assert {f.ttl_s for f in schema.features} == {None}
    assert {f.entity for f in schema.features if f.view.startswith("user")} == {Entity.USER}
    assert feast_repo.references(schema, Entity.ITEM)[0] == "item_attributes:title"
    assert Schema.from_json(schema.to_json()) == schema


def test_feast_fills_the_online_store_by_our_engine(applied_shop: AppliedShop) -> None:
    store = feast_repo.open_store(applied_shop.dataset)

    provider: Any = store._get_provider()
    assert isinstance(provider.batch_engine, RedisComputeEngine)


def test_a_views_time_to_live_is_that_of_its_features(tmp_path: Path) -> None:
    user = entity("user", ValueType.INT64)
    path = tmp_path / "visits.parquet"
    write_source(path, {"user_id": USERS}, {"visits": (Int64, pa.int64(), [1, 2, 3])})
    visits = FeatureView(
        name="visits",
        entities=[user],
        ttl=timedelta(days=2),
        schema=[Field(name="visits", dtype=Int64, tags={"encode": "none"})],
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
    )
    service = FeatureService(name="s", features=[visits])
    store = open_shop(tmp_path, {"type": "sqlite", "path": str(tmp_path / "o.db")}, None)
    store.apply([user, visits, service])

    (feature,) = feast_repo.schema_of(store, service).features

    assert feature.ttl_s == 2 * 86_400


def test_a_service_that_is_not_there_is_named(applied_shop: AppliedShop) -> None:
    store = feast_repo.open_store(applied_shop.dataset)

    with pytest.raises(BadInput, match=r"the registry has \['ranking_v1', 'retrieval_v1'\]"):
        feast_repo.find_service(store, "ranking_v9")
