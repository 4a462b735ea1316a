"""Fit the candidate sources before a cut-off and put the retriever bundle together.

``python -m trainer.sources cutoff=t1 two_tower=RUN`` writes ``RUN/retriever``.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hydra.core.config_store import ConfigStore

from feature_repo.contract.artifacts import (
    atomic_folder,
    read_json,
    write_manifest,
    write_table,
)
from feature_repo.contract.columns import column_of
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError, ConfigError, ShoprecError
from feature_repo.contract.events import EventType
from feature_repo.contract.state import DAY_S
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.index import build_index, save_index
from retrieval.retriever import KIND
from retrieval.sources import NeighbourSource, PopularSource, Transform
from retrieval.towers import TwoTower
from trainer.config import compose_as, register
from trainer.distributed import set_up_logging
from trainer.neighbours import Purchases, Table, fit_ease, fit_groups, fit_knn
from trainer.sets import TrainingSet
from trainer.sources_config import GroupConfig, SourcesConfig, SourceSettings
from trainer.two_tower import FOLDER, SERVICE

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

USAGE = """\
Fit the candidate sources before a cut-off, and write the retriever bundle of a two-tower run.

  python -m trainer.sources cutoff=TIME two_tower=RUN [data=NAME] [KEY=VALUE ...]

  cutoff     t0, t1, t2, t3 or an ISO time: the cut-off of the two-tower run
  two_tower  folder that `python -m trainer experiment=.../two_tower` wrote

Some settings:
  sources.quotas.ann=100       most candidates of a source; 0 leaves it out
  sources.ease.items=6000      items in EASE, by buyers
  sources.ease.l2=100
  sources.item_knn.neighbours=100
  sources.popular_days=28
  index=flat                   flat, ivf_pq or hnsw

The last line on stdout is the bundle's folder, RUN/retriever.
"""


def events_before(dataset: Dataset, cutoff: datetime) -> pa.Table:
    """``user_id, item_id, weight, first, recent``: one row a user and item, before the cut-off.

    ``weight`` is the decayed count at the cut-off, ``first`` and ``last`` are days before it.
    """
    query = f"""
        SELECT user_id, item_id,
               sum(exp2(-age / {dataset.half_life_days})) AS weight,
               max(age) AS first_days, min(age) AS last_days
        FROM (
            SELECT user_id, item_id,
                   date_diff('second', event_timestamp, $cutoff) / {DAY_S} AS age
            FROM read_parquet($events)
            WHERE event_type = $kind AND event_timestamp < $cutoff
        )
        GROUP BY ALL ORDER BY user_id, item_id
    """.replace("exp2(", "pow(2, ")
    values = {
        "cutoff": cutoff,
        "events": str(dataset.canonical / "events.parquet"),
        "kind": EventType.PURCHASE.value,
    }
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(query, params=values).to_arrow_table()


class Fit:
    """All sources of one bundle, fitted on the same purchases."""

    def __init__(
        self, settings: SourceSettings, events: pa.Table, items: pa.Table, encoder: Encoder
    ) -> None:
        self.settings = settings
        self.items = items
        self.vocabulary = encoder.items
        rows = encoder.items.rows(events.column("item_id"))
        known = rows > 0
        users = np.asarray(column_of(events, "user_id").dictionary_encode().indices)
        self.first_days = np.asarray(events.column("first_days"))[known]
        self.last_days = np.asarray(events.column("last_days"))[known]
        self.purchases = Purchases(
            users[known].astype(np.int64),
            rows[known],
            np.asarray(events.column("weight"), dtype=np.float32)[known],
            int(users.max(initial=-1)) + 1,
            encoder.items.num_rows,
        )

    def buyers_within(self, days: int, ages: npt.NDArray[np.float64]) -> Floats:
        """[R] users whose first or last purchase (by ``ages``) lies within some days."""
        rows = self.purchases.item_row[ages <= days]
        return np.bincount(rows, minlength=self.purchases.num_rows).astype(np.float32)

    def write(self, name: str, folder: Path, half_life_days: float) -> dict[str, Any]:
        """Fit one source, write its files, and return what the manifest says of it."""
        new_only = self.settings.new_only
        match name:
            case "ann":
                return {"kind": "ann", "new_only": new_only}
            case "buy_again":
                return {"kind": "buy_again", "half_life_days": half_life_days}
            case "popular" | "first_time_popular":
                self._popular(name).save(folder)
                return {"kind": "popular", "new_only": new_only}
            case _:
                table, transform = self._neighbours(name)
                NeighbourSource(name, *table, transform, half_life_days).save(folder)
                return {
                    "kind": "neighbours",
                    "new_only": new_only,
                    "transform": transform.value,
                    "half_life_days": half_life_days,
                }

    def _popular(self, name: str) -> PopularSource:
        ages = self.last_days if name == "popular" else self.first_days
        buyers = self.buyers_within(self.settings.popular_days, ages)
        rows = np.argsort(-buyers, kind="stable")
        rows = rows[buyers[rows] > 0]
        return PopularSource(name, rows.astype(np.int64), buyers[rows])

    def _neighbours(self, name: str) -> tuple[Table, Transform]:
        match name:
            case "ease":
                ease = self.settings.ease
                table = fit_ease(
                    self.purchases, ease.transform, ease.items, ease.l2, ease.neighbours
                )
                return table, ease.transform
            case "item_knn":
                knn = self.settings.item_knn
                table = fit_knn(self.purchases, knn.transform, knn.shrink, knn.neighbours)
                return table, knn.transform
            case "category":
                return self._group(self.settings.category), self.settings.category.transform
            case "brand":
                return self._group(self.settings.brand), self.settings.brand.transform
            case _:
                raise ConfigError(f"There is no source {name}.")

    def _group(self, config: GroupConfig) -> Table:
        codes = group_codes(self.items, config.groups, self.vocabulary)
        return fit_groups(codes, self.buyers_within(config.days, self.last_days), config.neighbours)


def group_codes(
    items: pa.Table, groups: list[str], vocabulary: Vocabulary
) -> npt.NDArray[np.int64]:
    """[R] one code for each combination of the attributes; 0 where one of them is missing.

    Raises:
        ConfigError: the items have no attribute of that name.
    """
    unknown = sorted(set(groups) - set(items.column_names))
    if unknown:
        raise ConfigError(f"Items have no attribute {unknown}; they have {items.column_names}.")
    codes = np.zeros(len(items), dtype=np.int64)
    missing = np.zeros(len(items), dtype=np.bool_)
    for group in groups:
        column = column_of(items, group).cast(pa.string()).dictionary_encode()
        own = np.asarray(column.indices.fill_null(-1)).astype(np.int64)
        missing |= own < 0
        codes = codes * (len(column.dictionary) + 1) + own + 1
    _, dense = np.unique(np.where(missing, -1, codes), return_inverse=True)
    found = np.zeros(vocabulary.num_rows, dtype=np.int64)
    rows = vocabulary.rows(column_of(items, "item_id"))
    found[rows] = np.where(missing, 0, dense + 1)
    found[0] = 0
    return found


def compose_sources(overrides: Sequence[str]) -> SourcesConfig:
    """Compose ``conf/sources.yaml`` and ``overrides``; see ``compose_as``."""
    register()
    ConfigStore.instance().store(name="sources_schema", node=SourcesConfig, provider="trainer")
    return compose_as(SourcesConfig, "sources", overrides)


def make_bundle(config: SourcesConfig) -> Path:
    """Fit all sources and write the bundle; return its folder.

    Raises:
        ArtifactError: the two-tower run is missing or not finished.
        ConfigError: it was trained at another cut-off or on another data set.
    """
    dataset = config.dataset()
    run = Path(config.two_tower).resolve()
    cutoff = dataset.edge(config.cutoff)
    _require_fitting(run, dataset, cutoff)
    towers, encoder = run / FOLDER, Encoder.load(run / FOLDER / "encoder")
    items = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff).items
    fit = Fit(config.sources, events_before(dataset, cutoff), items, encoder)
    target = run / "retriever"
    with atomic_folder(target) as folder:
        shutil.copytree(towers, folder, dirs_exist_ok=True)
        about = _write_sources(fit, config, dataset, folder)
        vectors = np.load(folder / "item_vectors.npy", allow_pickle=False)
        save_index(build_index(vectors, config.index.kind), folder / "index.faiss")
        write_table(folder / "items.parquet", items)
        about |= {
            "dataset": dataset.name,
            "cutoff": cutoff.isoformat(),
            "num_items": len(encoder.items),
            "dim": int(vectors.shape[1]),
            "similarity": TwoTower.load(folder).config.similarity,
            "fingerprint": encoder.schema.fingerprint,
            "half_life_days": dataset.half_life_days,
            "index": config.index.kind.value,
            "two_tower": run.name,
        }
        write_manifest(folder, KIND, about)
    return target


def _write_sources(
    fit: Fit, config: SourcesConfig, dataset: Dataset, folder: Path
) -> dict[str, Any]:
    quotas = {name: k for name, k in config.sources.quotas.items() if k > 0}
    sources = {}
    for name in quotas:
        sources[name] = fit.write(name, folder / "sources" / name, dataset.half_life_days)
        log.info("Source %s: fitted.", name)
    settings = asdict(config.sources)
    return {"sources": sources, "quotas": quotas, "settings": settings}


def _require_fitting(run: Path, dataset: Dataset, cutoff: datetime) -> None:
    if not (run / "result.json").exists():
        raise ArtifactError(
            f"{run} is not a finished run of a two-tower model. Train one: python -m trainer "
            f"experiment=two_tower data={dataset.name} cutoff={cutoff.isoformat()}"
        )
    made_from = read_json(run / "run.json")
    found = made_from["data"]["name"], made_from["cutoff"]
    if found != (dataset.name, cutoff.isoformat()):
        raise ConfigError(
            f"{run} was trained on {found[0]} before {found[1]}; expected {dataset.name} before "
            f"{cutoff.isoformat()}."
        )


def main(arguments: Sequence[str]) -> int:
    """Fit; return 0, or 1 after an error that is told on stderr."""
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    set_up_logging()
    try:
        sys.stdout.write(f"{make_bundle(compose_sources(arguments))}\n")
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
