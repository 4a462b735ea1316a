"""What a plan takes a run to hold and read, against runs themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Encoding, Schema
from tests.retrieval import shop
from tests.trainer.shop import make_task, run_config
from trainer.distributed import Process
from trainer.embeddings import meta_tables
from trainer.plan import compose_plan
from trainer.planning.config import PlanConfig
from trainer.planning.workload import Workload, declared, find_schema
from trainer.sharding import tables_of

ALL = (Encoding.CATEGORICAL, Encoding.BAG, Encoding.NUMERIC)


def planned(dataset: Dataset, *overrides: str) -> PlanConfig:
    given = ["experiment=two_tower", "users=30", "items=40", f"data.root={dataset.root}"]
    return compose_plan([*given, *overrides])


def test_the_tables_are_those_of_a_run(
    shop_dataset: Dataset, process: Process, tmp_path: Path
) -> None:
    task = make_task(run_config(shop_dataset, tmp_path), process, tmp_path)
    users, items = task.encoder.users.num_rows - 1, task.encoder.items.num_rows - 1
    sizes = [f"users={users}", f"items={items}"]

    found = Workload.of(planned(shop_dataset, *sizes, "model.id_dim=8", "model.feature_dim=4"))

    mine = {(t.name, t.num_rows, t.dim, t.features) for t in found.tables}
    theirs = {(t.name, t.num_rows, t.dim, t.features) for t in task.tables.tables.values()}
    assert mine == theirs


def test_examples_are_shared_by_the_processes(shop_dataset: Dataset) -> None:
    batch = ["trainer.batch_size=100", "targets=3", "model.num_negatives=50", "items=1000"]
    overrides = [*batch, "world_size=4", "model.history_length=20"]

    load = Workload.of(planned(shop_dataset, *overrides)).load

    items = 100 * 3 + 50
    assert load.batch_size == -(-(100 + items) // 4)
    assert load.of("user_id") == pytest.approx(100 / (100 + items))
    assert load.of("segment") == load.of("user_id")
    assert load.of("history_item_id") == pytest.approx(20 * 100 / (100 + items))
    assert load.of("category") == pytest.approx(items / (100 + items))


def test_a_ranker_reads_what_its_settings_leave_in(shop_dataset: Dataset) -> None:
    ranker = ["experiment=wide_deep", "model.network.id_dim=4", "model.network.feature_dim=12"]

    found = Workload.of(planned(shop_dataset, *ranker, "model.network.without=[user_id,segment]"))

    tables = {table.name: (table.num_rows, table.dim, table.features) for table in found.tables}
    assert tables == {
        "item_id": (41, 4, ("item_id", "history_item_id")),
        "category": (16, 12, ("category",)),
    }


def test_a_ranker_without_tables_is_refused(shop_dataset: Dataset) -> None:
    without = "model.network.without=[user_id,item_id,history_item_id,segment,category]"
    with pytest.raises(ConfigError, match="reads no table"):
        Workload.of(planned(shop_dataset, "experiment=wide_deep", without))


def test_tables_of_any_size_take_no_memory(shop_dataset: Dataset) -> None:
    config = planned(shop_dataset, "users=2000000000", "optimizer.table_dtype=fp16")

    module = meta_tables(Workload.of(config).tables)

    (users, *_) = tables_of(module)
    assert (users.num_embeddings, users.data_type.value) == (2_000_000_001, "FP16")
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_a_training_sets_features_come_first(shop_dataset: Dataset) -> None:
    schema, source = find_schema(planned(shop_dataset), "retrieval_v1")

    assert schema.features == shop.SCHEMA.features
    assert source == str(shop_dataset.sets / "retrieval_v1-sessions-t1" / "schema.json")


def test_without_a_data_set_the_declared_features_are_read(
    repository: Path, tmp_path: Path
) -> None:
    config = compose_plan(
        ["experiment=two_tower", "users=3", "items=3", f"data.root={tmp_path / 'none'}"]
    )

    schema, source = find_schema(config, "retrieval_v1")

    assert (Path.cwd() / source) == repository / "feature_repo" / "definitions.py"
    features = {feature.name: feature for feature in schema.features}
    assert features["history_item_id"].bag_of == "item_id"
    assert features["brand"].buckets == 16384
    assert "buyers_total" not in features
    assert Schema.from_json(schema.to_json()) == schema


def test_a_service_that_is_not_declared_is_named(tmp_path: Path) -> None:
    path = tmp_path / "definitions.py"
    path.write_text("retrieval_v1 = None", encoding="utf-8")

    with pytest.raises(ConfigError, match="does not declare nothing_v1"):
        declared(path, "nothing_v1")
