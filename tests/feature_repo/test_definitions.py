from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.contract.dataset import Dataset
from feature_repo.contract.schema import Derive, Encoding, Entity, Schema
from feature_repo.contract.state import HISTORY_COLUMNS
from feature_repo.jobs import feast_repo
from feature_repo.jobs.config import TrainingSetConfig, load_config
from feature_repo.jobs.item_activity import COLUMNS as ITEM_ACTIVITY
from feature_repo.jobs.training_set import make_training_set
from feature_repo.jobs.user_activity import activity_schema
from tests.feature_repo.conftest import AppliedShop, feast_apply, shop_settings


def schema(dataset: Dataset, service: str) -> Schema:
    store = feast_repo.open_store(dataset)
    return feast_repo.schema_of(store, feast_repo.find_service(store, service))


def test_the_real_command_line_applies_the_definitions(applied_shop: AppliedShop) -> None:
    assert "Applying changes for project small_shop" in applied_shop.output
    assert (applied_shop.root / "registry.db").is_file()


def test_feast_sees_the_definitions_alone(repository: Path) -> None:
    folder = repository / "feature_repo"
    lines = (folder / ".feastignore").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    present = {p.name + ("/" if p.is_dir() else "") for p in folder.iterdir()}
    seen = {name for name in present if name.endswith((".py", "/"))} - set(listed)

    assert seen == {"definitions.py"}


def test_retrieval_reads_no_item_activity(applied_shop: AppliedShop) -> None:
    retrieval = schema(applied_shop.dataset, "retrieval_v1")
    ranking = schema(applied_shop.dataset, "ranking_v1")

    more = set(ranking.features) - set(retrieval.features)
    assert set(retrieval.features) < set(ranking.features)
    assert {f.view for f in more} == {"item_activity", "user_seen"}
    assert {f.name for f in more if f.view == "item_activity"} == set(ITEM_ACTIVITY)


def test_tags_say_how_a_feature_is_encoded(applied_shop: AppliedShop) -> None:
    features = {f.name: f for f in schema(applied_shop.dataset, "ranking_v1").features}

    assert features["department"].encoding is Encoding.CATEGORICAL
    assert features["last_event_s"].derive is Derive.DAYS_SINCE
    assert features["history_item_id"].bag_of == "item_id"
    assert features["history_item_id"].bag_weight == "history_weight"
    assert features["history_item_id"].dtype == "Array(Int64)"
    assert {features[name].view for name in HISTORY_COLUMNS} == {"user_history"}
    assert features["title"].encoding is Encoding.NONE


def test_every_feature_is_a_column_that_a_job_writes(applied_shop: AppliedShop) -> None:
    dataset = applied_shop.dataset

    for feature in schema(dataset, "ranking_v1").features:
        columns = pq.read_schema(dataset.features / f"{feature.view}.parquet").names
        assert feature.name in columns, feature


def test_every_activity_of_a_user_is_a_feature(applied_shop: AppliedShop) -> None:
    dataset = applied_shop.dataset
    features = [f for f in schema(dataset, "ranking_v1").features if f.view == "user_activity"]

    assert [f.name for f in features] == activity_schema(dataset.user_id).names[2:]


def test_a_field_added_to_the_definitions_reaches_the_training_set(
    applied_shop: AppliedShop, repository: Path, tmp_path: Path
) -> None:
    root, repo = tmp_path / "small_shop", tmp_path / "repo"
    shutil.copytree(applied_shop.root, root, ignore=shutil.ignore_patterns("sets", "lock"))
    dataset = Dataset.load(root / "dataset.json")
    feast_repo.write_settings(dataset)
    profile = dataset.features / "user_profile.parquet"
    table = pq.read_table(profile)
    shoe_sizes = pa.array([40.0 + row for row in range(len(table))], pa.float32())
    pq.write_table(table.append_column("shoe_size", shoe_sizes), profile)
    repo.mkdir()
    source = (repository / "feature_repo" / "definitions.py").read_text(encoding="utf-8")
    place = '        _categorical("segment", 64),\n'
    assert place in source
    added = source.replace(place, place + '        _numeric("shoe_size", buckets=8),\n')
    (repo / "definitions.py").write_text(added, encoding="utf-8")

    result = feast_apply(dataset, repo)
    assert result.returncode == 0, result.stderr
    settings = [*shop_settings(root), "service=ranking_v1", "kind=users", "cutoff=t0"]
    folder = make_training_set(load_config(TrainingSetConfig, settings))

    (feature,) = [f for f in schema(dataset, "ranking_v1").features if f.name == "shoe_size"]
    assert (feature.entity, feature.encoding, feature.buckets) == (
        Entity.USER,
        Encoding.NUMERIC,
        8,
    )
    assert feature in Schema.load(folder / "schema.json").features
    rows = pq.read_table(folder / "users.parquet").to_pylist()
    assert [row["shoe_size"] for row in rows] == [40.0, 41.0, 42.0, 43.0]


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_ids_have_the_types_of_the_data_set(id_type: str, repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(f'{{"user_id": "{id_type}", "item_id": "{id_type}"}}', encoding="utf-8")
    code = (
        "import runpy\n"
        f"found = runpy.run_path({str(repository / 'feature_repo' / 'definitions.py')!r})\n"
        "types = {field.name: field.dtype for field in found['user_history'].schema}\n"
        "print(found['user'].value_type.name, types['history_item_id'])\n"
        "print(found['user_profile'].batch_source.path)"
    )
    environment = {**os.environ, "SHOPREC_DATASET_JSON": str(path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=True
    )

    types, source = result.stdout.splitlines()
    assert types == f"{id_type.upper()} Array({id_type.title()})"
    assert source == str(tmp_path / "features" / "user_profile.parquet")
