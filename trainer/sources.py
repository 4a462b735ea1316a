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

from hydra.core.config_store import ConfigStore

from feature_repo.contract.artifacts import (
    atomic_folder,
    read_json,
    write_manifest,
    write_table,
)
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.encoding import Encoder
from feature_repo.contract.errors import ArtifactError, ConfigError, ShoprecError
from retrieval.index import build_index
from retrieval.retriever import KIND, STARTERS
from retrieval.sources import BuyAgainSource, Source
from retrieval.towers import TwoTower
from trainer import blend as blends
from trainer.config import compose_as, register
from trainer.distributed import set_up_logging
from trainer.fitted import load_fitted
from trainer.fitting import Fitting, fit_source
from trainer.index_users import vectors_of_users
from trainer.sets import SERVICE, TrainingSet
from trainer.sources_config import SourcesConfig, SourceSettings
from trainer.two_tower import FOLDER, VECTORS

log = logging.getLogger(__name__)

USAGE = """\
Fit the candidate sources before a cut-off, and write the retriever bundle of a two-tower run.

  python -m trainer.sources cutoff=TIME two_tower=RUN [data=NAME] [KEY=VALUE ...]

  cutoff     t0, t1, t2, t3 or an ISO time: the cut-off of the two-tower run
  two_tower  folder that `python -m trainer experiment=.../two_tower` wrote

Some settings:
  sources.quotas.ann=60        most candidates of a source; 0 leaves it out
  sources.ease.items=6000      items in EASE, by buyers
  sources.ease.l2=100
  sources.item_knn.neighbours=100
  sources.popular.days=28
  index=auto                   auto, flat, ivf_pq or hnsw
  index.target_recall=0.95     of an approximate index, or it is refused

The last line on stdout is the bundle's folder, RUN/retriever.
"""


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
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    items = sessions.items
    new_only = config.sources.new_only
    fitting = Fitting.before(dataset, cutoff, items, encoder, new_only)
    target = run / "retriever"
    with atomic_folder(target) as folder:
        shutil.copytree(towers, folder, dirs_exist_ok=True)
        about = _write_sources(fitting, config.sources, folder)
        index = build_index(
            folder / VECTORS,
            folder / "index",
            config.index,
            lambda: vectors_of_users(towers, sessions, dataset.half_life_days),
            items=encoder.items,
        )
        write_table(folder / "items.parquet", items)
        about |= {
            "dataset": dataset.name,
            "cutoff": cutoff.isoformat(),
            "num_items": len(encoder.items),
            "dim": index.dim,
            "similarity": TwoTower.load(folder).config.similarity,
            "fingerprint": encoder.schema.fingerprint,
            "half_life_days": dataset.half_life_days,
            "index": index.kind,
            "two_tower": run.name,
        }
        write_manifest(folder, KIND, about)
    return target


def _write_sources(fitting: Fitting, settings: SourceSettings, folder: Path) -> dict[str, Any]:
    quotas = {name: k for name, k in settings.quotas.items() if k > 0}
    blend = None if settings.blend is None else read_json(Path(settings.blend) / blends.FILE)
    members = [] if blend is None or "blend" not in quotas else list(blend["sources"])
    sources: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*quotas, *members, STARTERS]):
        if name == "ann":
            sources[name] = {"kind": "ann", "new_only": fitting.new_only}
        elif name == "blend" and blend is not None:
            sources[name] = blend
        else:
            source = _source(name, settings, fitting)
            source.save(folder / "sources" / name)
            sources[name] = source.about
            log.info("Source %s: ready.", name)
    return {"sources": sources, "quotas": quotas, "settings": asdict(settings)}


def _source(name: str, settings: SourceSettings, fitting: Fitting) -> Source:
    if name == "buy_again":
        return BuyAgainSource(fitting.half_life_days)
    if name in settings.runs:
        return _of_run(name, Path(settings.runs[name]), fitting)
    return fit_source(name, settings.fitted(name), fitting)


def _of_run(name: str, run: Path, fitting: Fitting) -> Source:
    _require_fitting(run, fitting.dataset, fitting.cutoff)
    source, encoder = load_fitted(run, name)
    if not encoder.items.ids.equals(fitting.vocabulary.ids):
        raise ConfigError(
            f"{run} has {len(encoder.items)} items, the two-tower run {len(fitting.vocabulary)}, "
            "or others: train both on the same set with the same model.min_buyers."
        )
    return source


def _require_fitting(run: Path, dataset: Dataset, cutoff: datetime) -> None:
    if not (run / "result.json").exists():
        raise ArtifactError(
            f"{run} is not a finished run. Train one: python -m trainer "
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
