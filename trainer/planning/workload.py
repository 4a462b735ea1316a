"""What an experiment would hold in tables and read of them in a step, without its data."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from feature_repo.contract.dataset import REPOSITORY
from feature_repo.contract.encoding import IDS, TableSpec, table_specs
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from ranking.inputs import TABLES
from trainer.embeddings import TableConfig
from trainer.model_config import TwoTowerModelConfig
from trainer.planning.config import PlanConfig
from trainer.planning.dense import Dense, dense_of
from trainer.ranker_config import RankerModelConfig
from trainer.sharding import Load


@dataclass(frozen=True)
class Workload:
    """The tables of an experiment and what a process reads of them in a step."""

    tables: tuple[TableConfig, ...]
    load: Load
    dense: Dense
    source: str
    """Where the list of features is from."""

    @staticmethod
    def of(config: PlanConfig) -> Workload:
        """The experiment's workload.

        A batch is B examples above C items, the other side's features empty; the processes share
        both evenly. C is the most that there can be: no item is met twice.

        Raises:
            ConfigError: the model reads no table.
        """
        shape = _shape(config)
        schema, source = find_schema(config, shape.service)
        assert config.users is not None  # by PlanConfig
        assert config.items is not None
        specs = table_specs(schema, config.users + 1, config.items + 1, shape.encodings)
        kept = _read(specs, shape.without)
        if not kept:
            raise ConfigError(f"The model reads no table: it is without {shape.without}.")
        dims = dict.fromkeys(IDS.values(), shape.id_dim)
        tables = TableConfig.of_specs(kept, dims, shape.feature_dim, config.optimizer)
        dense = dense_of(config, schema, tables, shape.items)
        return Workload(tables, _load(schema, config, shape), dense, source)


@dataclass(frozen=True)
class _Shape:
    """What tables and batches of a model depend on."""

    service: str
    encodings: tuple[Encoding, ...]
    """Of the features that are read from tables."""
    without: list[str]
    """Features that are not read."""
    items: float
    """C, items of a batch."""
    id_dim: int
    feature_dim: int
    history_length: int
    weighted: bool
    """Whether rows have weights even where no bag has any."""


def _shape(config: PlanConfig) -> _Shape:
    batch = config.trainer.batch_size
    match config.model:
        case TwoTowerModelConfig() as model:
            return _Shape(
                "retrieval_v1",
                (*TABLES, Encoding.NUMERIC),
                [],
                min(batch * config.targets + model.num_negatives, float(config.items or 0)),
                model.id_dim,
                model.feature_dim,
                model.history_length,
                weighted=False,
            )
        case RankerModelConfig(network=network) as model:
            return _Shape(
                "ranking_v1",
                TABLES,
                network.without,
                batch * (config.targets + model.negatives),
                network.id_dim,
                network.feature_dim,
                network.history_length,
                weighted=True,
            )
        case model:
            raise TypeError(f"No plan is made of {type(model).__name__}.")


def find_schema(config: PlanConfig, service: str) -> tuple[Schema, str]:
    """The features of a Feast service, and where they are from.

    A training set's own where the data set has one, else those of ``feature_repo.definitions``.
    """
    found = sorted((config.dataset_folder / "sets").glob(f"{service}-*/schema.json"))
    if found:
        return Schema.load(found[-1]), _shown(found[-1])
    path = REPOSITORY / "feature_repo" / "definitions.py"
    return declared(path, service), _shown(path)


def _shown(path: Path) -> str:
    """The path from the current folder on, where it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


DECLARED = """\
import json, runpy, sys
found = runpy.run_path(sys.argv[1])
views = {view.name: view for view in found.values() if hasattr(view, "entity_columns")}
rows = [
    [field.name, views[part.name].entities[0], part.name, str(field.dtype), dict(field.tags or {})]
    for part in found[sys.argv[2]].feature_view_projections
    for field in part.features
]
print(json.dumps(rows))
"""


@cache
def declared(path: Path, service: str) -> Schema:
    """The features that a service declares, read by a process of its own.

    The declarations ask a data set for the types of its ids, which tables do not depend on; the
    trainer does not import Feast.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset.json"
        dataset.write_text('{"user_id": "int64", "item_id": "int64"}', encoding="utf-8")
        environment = {**os.environ, "SHOPREC_DATASET_JSON": str(dataset)}
        command = [sys.executable, "-c", DECLARED, str(path), service]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{path} does not declare {service}: {done.stderr.strip()[-400:]}")
    rows = json.loads(done.stdout.splitlines()[-1])
    return Schema(
        service,
        tuple(Feature.from_tags(name, Entity(entity), *rest) for name, entity, *rest in rows),
    )


def _read(specs: Iterable[TableSpec], without: list[str]) -> list[TableSpec]:
    """Tables with the features that are read of them, where any is."""
    kept = [
        replace(spec, features=tuple(f for f in spec.features if f not in without))
        for spec in specs
    ]
    return [spec for spec in kept if spec.features]


def _load(schema: Schema, config: PlanConfig, shape: _Shape) -> Load:
    """S = (B + C) / W examples a process; the features of each side are empty on the other's."""
    batch, items = config.trainer.batch_size, shape.items
    share = {Entity.USER: batch / (batch + items), Entity.ITEM: items / (batch + items)}
    factors = {IDS[entity]: part for entity, part in share.items()}
    for entity, part in share.items():
        for feature in schema.of(entity):
            length = shape.history_length if feature.encoding is Encoding.BAG else 1
            factors[feature.name] = part * length
    weighted = shape.weighted or any(feature.bag_weight for feature in schema.features)
    return Load(math.ceil((batch + items) / config.world_size), factors, weighted)
