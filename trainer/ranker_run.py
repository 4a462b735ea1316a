"""From retriever bundles to a ranker's bundle: ``python -m trainer model=wide_deep``."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from feature_repo.contract.artifacts import MANIFEST, read_manifest, sha256_file
from feature_repo.contract.dataset import Dataset
from feature_repo.contract.errors import ConfigError
from feature_repo.contract.events import EventType
from feature_repo.contract.schema import Entity
from ranking.inputs import InputEncoder
from retrieval.retriever import KIND
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.ranker_config import RankerModelConfig
from trainer.ranker_inputs import encode_windows
from trainer.ranker_members import Members, write_bundle
from trainer.ranker_rows import Rows
from trainer.ranker_weights import weighed
from trainer.ranker_windows import Part, Window, labelled_set
from trainer.runs import Run

log = logging.getLogger(__name__)


def train(config: RunConfig, model: RankerModelConfig, process: Process) -> Path:
    """Train, write the bundle, and return the run's folder; a finished run is not trained again.

    Raises:
        ConfigError: there is no retriever, or one whose window's labels pass the cut-off; or a
            warm start is asked for.
    """
    if config.warm_start is not None:
        raise ConfigError(
            "warm_start is of two_tower: a ranker's buckets and rows follow its label window."
        )
    dataset = config.dataset()
    bundles = _bundles(config, model)
    run = Run.open(config, _digests(dataset, bundles, model.validation, config.cutoff), process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    inputs, rows, held_out = _encoded(config, model, bundles, dataset)
    _log_rows(rows, inputs)
    judged = _judged(model, dataset, inputs)
    members = Members(config, model, inputs, rows, judged, held_out, process)
    run.finish(write_bundle(members, run, dataset))
    return run.folder


def _encoded(
    config: RunConfig, model: RankerModelConfig, bundles: list[Path], dataset: Dataset
) -> tuple[InputEncoder, Rows, Rows | None]:
    """What is trained on, and the users of the latest window that are held out, if any are."""

    def opened(bundle: Path, events: Iterable[EventType], held_out: bool = False) -> Window:
        part = Part(model.calibration.held_out, config.seed, held_out) if model.holds_out else None
        return Window.open(
            bundle,
            dataset,
            new_only=model.new_only,
            before=config.cutoff,
            part=part,
            others=events,
        )

    others = [event for event in model.trained_tasks if event is not EventType.PURCHASE]
    windows = [opened(bundle, others) for bundle in bundles]
    inputs, rows = encode_windows(windows, model.network, dataset)
    held = opened(bundles[0], (), held_out=True).encode(inputs) if model.holds_out else None
    return inputs, weighed(rows, windows, model), held


def _bundles(config: RunConfig, model: RankerModelConfig) -> list[Path]:
    if config.retriever is None:
        raise ConfigError(
            "Training a ranker needs retriever=DIR: the bundle that was fitted one window before "
            "the cut-off (python -m trainer.sources)."
        )
    return [Path(config.retriever), *map(Path, model.earlier)]


def _digests(
    dataset: Dataset, bundles: list[Path], validation: str | None, before: str
) -> dict[str, str]:
    """Name -> digest of each retriever and training set that is read."""
    named: dict[str, tuple[Path, str | None]] = {
        f"window {index}": (bundle, before) for index, bundle in enumerate(bundles)
    }
    if validation is not None:
        named["validation"] = Path(validation), None
    digests = {}
    for name, (bundle, last) in named.items():
        about = read_manifest(bundle, KIND, verify=False)
        digests[f"{name} retriever"] = sha256_file(bundle / MANIFEST)
        digests[f"{name} set"] = labelled_set(dataset, about, last).digest
    return digests


def _judged(model: RankerModelConfig, dataset: Dataset, inputs: InputEncoder) -> Rows | None:
    if model.validation is None:
        return None
    window = Window.open(Path(model.validation), dataset, new_only=model.new_only)
    return window.encode(inputs)


def _log_rows(rows: Rows, inputs: InputEncoder) -> None:
    relevant, found = int(rows.num_relevant.sum()), int(rows.labels.sum())
    log.info(
        "%d candidates of %d requests, %d columns of pairs, %d crosses; %d of %d purchases "
        "(%.1f%%) are among them.",
        len(rows.labels),
        len(rows),
        len(inputs.numeric[Entity.PAIR].names),
        len(inputs.crosses.crosses),
        found,
        relevant,
        100.0 * found / max(relevant, 1),
    )
