"""The Feast side of a data set: its settings, its store, and a service's list of features."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.contract.artifacts import atomic_path
from feature_repo.contract.dataset import DATASET_VARIABLE, REPOSITORY, Dataset
from feature_repo.contract.errors import ArtifactError, BadInput
from feature_repo.contract.schema import Entity, Feature, Schema
from feature_repo.jobs.config import JobConfig

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

FEATURE_REPO = REPOSITORY / "feature_repo"
SETTINGS_VARIABLE = "FEAST_FS_YAML_FILE_PATH"
"""Feast's environment variable for another ``feature_store.yaml``."""

_SETTINGS = """\
# Written by `python -m feature_repo.jobs ingest`; see feature_repo/feature_store.yaml.
project: {project}
provider: local
registry: {registry}
entity_key_serialization_version: 3
offline_store:
  type: duckdb
online_store:
  type: feature_repo.contract.feast_online.ShopRedisOnlineStore
batch_engine:
  type: feature_repo.jobs.redis_engine.RedisComputeEngine
"""


def settings_path(dataset: Dataset) -> Path:
    """The data set's own ``feature_store.yaml``."""
    return dataset.root / "feature_store.yaml"


def write_settings(dataset: Dataset) -> None:
    """Write the data set's own ``feature_store.yaml``."""
    registry = dataset.root.resolve() / "registry.db"
    with atomic_path(settings_path(dataset)) as temporary:
        settings = _SETTINGS.format(project=dataset.name, registry=registry)
        temporary.write_text(settings, encoding="utf-8")


def feast_environment(dataset: Dataset) -> dict[str, str]:
    """The variables with which ``feast -c feature_repo`` works on this data set."""
    present = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        DATASET_VARIABLE: str(dataset.root.resolve() / "dataset.json"),
        SETTINGS_VARIABLE: str(settings_path(dataset).resolve()),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(REPOSITORY), *present])),
    }


def open_store(dataset: Dataset) -> FeatureStore:
    """The data set's feature store.

    Raises:
        ArtifactError: ``feast apply`` was not run for it.
    """
    from feast import FeatureStore

    registry = dataset.root / "registry.db"
    if not registry.is_file():
        raise ArtifactError(
            f"{registry} does not exist. Run `feast -c feature_repo apply`; for another data set "
            "than the default with the variables that `python -m feature_repo.jobs feast-env` "
            "prints."
        )
    return FeatureStore(repo_path=str(FEATURE_REPO), fs_yaml_file=settings_path(dataset))


def find_service(store: FeatureStore, name: str) -> FeatureService:
    """A service of the registry.

    Raises:
        BadInput: there is none of that name.
    """
    known = {service.name: service for service in store.list_feature_services()}
    if name not in known:
        raise BadInput(
            f"There is no feature service {name!r}; the registry has {sorted(known)}. Add it to "
            "feature_repo/definitions.py and run `feast -c feature_repo apply`."
        )
    return known[name]


def schema_of(store: FeatureStore, service: FeatureService) -> Schema:
    """Snapshot a service: its features, with what their tags say of their encoding.

    Raises:
        BadInput: a feature's tags cannot be read, or a view has not exactly one entity.
    """
    features = []
    for projection in service.feature_view_projections:
        entity, ttl_s = _entity_of(store, projection.name), _ttl_of(store, projection.name)
        for field in projection.features:
            dtype, tags = str(field.dtype), dict(field.tags or {})
            feature = Feature.from_tags(field.name, entity, projection.name, dtype, tags)
            features.append(replace(feature, ttl_s=ttl_s))
    return Schema(service.name, tuple(features))


def _entity_of(store: FeatureStore, view: str) -> Entity:
    entities = store.get_feature_view(view).entities
    if len(entities) != 1 or entities[0] not in (Entity.USER.value, Entity.ITEM.value):
        raise BadInput(f"View {view} must have the entity user or item, alone; got {entities}.")
    return Entity(entities[0])


def _ttl_of(store: FeatureStore, view: str) -> int | None:
    ttl = store.get_feature_view(view).ttl
    return int(ttl.total_seconds()) or None if ttl else None


def references(schema: Schema, entity: Entity) -> list[str]:
    """Feast's names, ``view:feature``, of one entity's features."""
    return [f"{feature.view}:{feature.name}" for feature in schema.of(entity)]


@contextlib.contextmanager
def duckdb_backend(config: JobConfig, scratch: Path) -> Iterator[None]:
    """Give Feast's DuckDB store a memory limit and a folder to spill into, closed afterwards."""
    import ibis

    settings = {"memory_limit": f"{config.memory_gb}GB"}
    if config.threads is not None:
        settings["threads"] = str(config.threads)
    with tempfile.TemporaryDirectory(prefix=".feast.", dir=scratch) as spill:
        backend = ibis.duckdb.connect(temp_directory=spill, **settings)
        ibis.set_backend(backend)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"fetch_arrow_table\(\)")
                yield
        finally:
            backend.disconnect()
            ibis.options.default_backend = None
