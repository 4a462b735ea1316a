"""The small shop of ``tests.retrieval.shop``, trained once for several test files."""

from __future__ import annotations

from pathlib import Path

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from trainer.config import RunConfig, compose
from trainer.distributed import Device, Process, process_group
from trainer.model_config import TwoTowerModelConfig
from trainer.runs import Run
from trainer.sets import SERVICE, TrainingSet
from trainer.sources import compose_sources, make_bundle
from trainer.sources_config import SourcesConfig
from trainer.two_tower import TwoTowerTask, train

SMALL = [
    "experiment=two_tower",
    "cutoff=t1",
    "sharding.device=cpu",
    "trainer.batch_size=16",
    "trainer.epochs=2",
    "trainer.log_every=10",
    "model.id_dim=8",
    "model.feature_dim=4",
    "model.dim=8",
    "model.hidden=[16]",
    "model.num_negatives=10",
    "model.min_buyers=1",
]


def run_config(dataset: Dataset, runs: Path, *overrides: str) -> RunConfig:
    """Settings of a small two-tower run."""
    return compose([*SMALL, *shop.overrides(dataset, runs), *overrides])


def open_run(config: RunConfig, process: Process) -> Run:
    """The run's folder."""
    return Run.open(config, {"sessions": "digest"}, process)


def make_task(config: RunConfig, process: Process, folder: Path) -> TwoTowerTask:
    """A two-tower model over the shop's sessions, not yet trained."""
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    assert isinstance(config.model, TwoTowerModelConfig)
    return TwoTowerTask(config, config.model, dataset, sessions, process, folder)


def fit_bundle(dataset: Dataset, runs: Path) -> Path:
    """A retriever bundle of the shop at t1; for use where no process group is open."""
    config = run_config(dataset, runs)
    assert isinstance(config.model, TwoTowerModelConfig)
    with process_group(Device.cpu) as process:
        run = train(config, config.model, process)
    return make_bundle(sources_config(dataset, run))


def sources_config(dataset: Dataset, run: Path, *overrides: str) -> SourcesConfig:
    """Settings of the sources of a run."""
    chosen = ["cutoff=t1", f"two_tower={run}", *shop.overrides(dataset, run.parent)]
    return compose_sources([*chosen, "sources.ease.items=30", *overrides])
