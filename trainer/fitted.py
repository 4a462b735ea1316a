"""``python -m trainer model=ease`` and its like: a run whose model is fitted, not trained by steps.

The run's folder gets ``source/``: the item vocabulary, the source's files and ``source.json``.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import atomic_folder, read_json, write_json
from feature_repo.contract.encoding import Encoder
from retrieval.sources import Source, load_source
from trainer.config import RunConfig, name_of
from trainer.distributed import Process
from trainer.fitting import Fitting, fit_source
from trainer.judge import judge_source
from trainer.runs import Run
from trainer.sets import SERVICE, TrainingSet, fit_encoder, judged_users
from trainer.source_config import FittedModelConfig

log = logging.getLogger(__name__)

FOLDER = "source"
"""In the run's folder."""


def train(config: RunConfig, model: FittedModelConfig, process: Process) -> Path:
    """Fit, write, measure, and return the run's folder; a finished run is not fitted again.

    The first process does all of it: what is fitted in closed form needs one machine's memory.
    """
    dataset = config.dataset()
    sessions = TrainingSet.open(dataset, SERVICE, "sessions", config.cutoff)
    run = Run.open(config, {"sessions": sessions.digest}, process)
    if run.result is not None:
        log.info("%s is finished already: %s", run.folder, run.result)
        return run.folder
    if process.is_first:
        run.finish(_fit(config, model, sessions, run.folder / FOLDER))
    process.barrier()
    return run.folder


def _fit(
    config: RunConfig, model: FittedModelConfig, sessions: TrainingSet, target: Path
) -> dict[str, float]:
    dataset, started = config.dataset(), time.monotonic()
    encoder = fit_encoder(sessions, dataset, min_buyers=1, history_length=dataset.history_items)
    cutoff = dataset.edge(config.cutoff)
    fitting = Fitting.before(dataset, cutoff, sessions.items, encoder)
    source = fit_source(name_of(model), model, fitting)
    seconds = time.monotonic() - started
    log.info("%s: fitted in %.1f s.", type(model).__name__, seconds)
    write_fitted(target, source, encoder)
    found: dict[str, float] = {"fit_seconds": seconds}
    if config.validate:
        judged = judged_users(dataset, config.cutoff)
        found |= judge_source(source, judged, encoder)
    return found


def write_fitted(target: Path, source: Source, encoder: Encoder) -> None:
    """Write a source and the encoder whose item rows it names, for ``load_fitted``."""
    with atomic_folder(target) as folder:
        encoder.save(folder / "encoder")
        source.save(folder / "sources" / source.name)
        write_json(folder / "source.json", {"name": source.name, **source.about})


def load_fitted(run: Path, name: str | None = None) -> tuple[Source, Encoder]:
    """The source of a finished run, and the encoder whose item rows it names.

    Args:
        run: its folder.
        name: what the source is to be called; by default as its model.

    Raises:
        ArtifactError: it is missing or truncated.
    """
    folder = run / FOLDER
    about = read_json(folder / "source.json")
    source: Any = load_source(folder, str(about["name"]), about)
    found: Source = source if name is None else replace(source, name=name)
    return found, Encoder.load(folder / "encoder")
