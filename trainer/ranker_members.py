"""The networks of a ranker, trained one after the other, and the bundle that holds them all.

They differ in their seeds alone: they read the same inputs, so that serving encodes a request once.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import write_manifest
from feature_repo.contract.dataset import Dataset
from ranking.calibration import save_calibration
from ranking.inputs import InputEncoder
from ranking.scorer import CALIBRATION, KIND, member_folder, write_ranker
from trainer.calibration import fit_calibration, measured_errors, require_both
from trainer.config import RunConfig
from trainer.distributed import Process
from trainer.ranker import RankerTask
from trainer.ranker_batches import ranking_metrics
from trainer.ranker_config import Calibrator, RankerModelConfig
from trainer.ranker_rows import Rows
from trainer.runs import Run

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

FOLDER = "ranker"
"""In the run's folder: the bundle."""


@dataclass(frozen=True)
class Members:
    """What the networks of a ranker are trained on."""

    config: RunConfig
    model: RankerModelConfig
    inputs: InputEncoder
    rows: Rows
    judged: Rows | None
    """Requests of a later window."""
    held_out: Rows | None
    """Users of the latest window that are not trained on."""
    process: Process

    @property
    def unseen(self) -> Rows | None:
        """What the members are averaged and calibrated on."""
        return self.judged if self.judged is not None else self.held_out

    def task(self, index: int) -> RankerTask:
        """A member that is not trained yet. Runs of different seeds have no member in common."""
        seed = self.config.seed * self.model.members + index
        config = replace(self.config, seed=seed)
        return RankerTask(config, self.model, self.inputs, self.rows, self.process, self.judged)

    def train(self, run: Run, folder: Path) -> dict[str, float]:
        """Train every member, and write all of a bundle but its manifest into ``folder``.

        Returns:
            the metrics of the member, or of several members' mean; a collective.
        """
        if self._calibrates and self.unseen is not None:
            require_both(self.unseen.labels, self.unseen.inputs.user_of)
        found, scores = [], []
        for index in range(self.model.members):
            task = self.task(index)
            part = run if self.model.members == 1 else run.part(f"members/{index}")
            found.append(task.trainer(part, self.config).train())
            task.export(member_folder(folder, index))
            if self.process.is_first and index == 0:
                network = self.model.network
                write_ranker(folder, self.inputs, network, task.widths, self.model.members)
            if self.unseen is not None and (self._calibrates or self.model.members > 1):
                scores.append(task.scores(self.unseen))
        logits = np.mean(scores, axis=0) if scores else np.zeros(0, np.float32)
        metrics = self._of_mean(found, logits) if self.model.members > 1 else found[0]
        return metrics | self._calibrate(folder, logits)

    @property
    def _calibrates(self) -> bool:
        return self.model.calibration.method is not Calibrator.none

    def _of_mean(self, found: Sequence[dict[str, float]], logits: Floats) -> dict[str, float]:
        """Metrics of the mean of all members' logits, and the means of each one's own."""
        own = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        metrics = {"epochs": own.pop("epochs"), "members": float(len(found))}
        if self.judged is not None:
            metrics |= {f"{name}_of_one": value for name, value in own.items()}
            metrics |= ranking_metrics(self.judged, logits)
            log.info("All members together: %s", metrics)
        return metrics

    def _calibrate(self, folder: Path, logits: Floats) -> dict[str, float]:
        """Write what turns logits into probabilities; its errors before and after."""
        if not self._calibrates or self.unseen is None:
            return {}
        method, labels = self.model.calibration.method, self.unseen.labels
        errors = measured_errors(method, logits, labels, self.unseen.inputs.user_of)
        if self.process.is_first:
            save_calibration(folder / CALIBRATION, fit_calibration(method, logits, labels))
        log.info(
            "Expected calibration error %.4f, calibrated (%s) %.4f.",
            errors["ece_before"],
            method.value,
            errors["ece"],
        )
        return errors


def write_bundle(members: Members, run: Run, dataset: Dataset) -> dict[str, float]:
    """Train, and write the bundle, whole or not at all; return the metrics. A collective."""
    process, target = members.process, run.folder / FOLDER
    partial = target.with_name(f".{FOLDER}.partial")
    if process.is_first:
        for folder in (partial, target):
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(parents=True)
    process.barrier()
    metrics = members.train(run, partial)
    if process.is_first:
        inputs = members.inputs
        about = {
            "dataset": dataset.name,
            "cutoff": dataset.edge(members.config.cutoff).isoformat(),
            "fingerprint": inputs.encoder.schema.fingerprint,
            "sources": list(inputs.sources),
            "half_life_days": inputs.half_life_days,
            "new_only": members.model.new_only,
            "run": run.name,
        }
        write_manifest(partial, KIND, about)
        partial.rename(target)
    process.barrier()
    return metrics
