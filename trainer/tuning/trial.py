"""One trial: ``python -m trainer`` in a process of its own, watched by the file of its metrics."""

from __future__ import annotations

import ctypes
import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json
from trainer.tuning.config import Direction

LOG = "log.txt"
METRICS, RESULT, STOP = "metrics.jsonl", "result.json", "STOP"
"""In a run's folder; see ``trainer.runs``."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _in_child() -> None:
    """What SLURM or a terminal sends to everybody is for the parent, which then asks for a
    checkpoint; without the parent nobody watches the trial, and another process may begin it."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class TrialRun:
    """A run of the trainer whose folder lies inside of its trial's."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        """Start, or go on; ``overrides`` are the trainer's."""
        self.folder = folder
        command = [sys.executable, "-m", "trainer", *overrides, f"paths.runs={folder}"]
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_in_child,  # there are no other threads of ours
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and an end; to be repeated, for a run that starts forgets it."""
        run = run_folder(self.folder)
        if run is None:
            self.kill()  # there is nothing to be kept yet
        else:
            (run / STOP).touch()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """The last line that it wrote."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def run_folder(trial: Path) -> Path | None:
    """The folder of a trial's run; None before there is one."""
    return next((path.parent for path in trial.glob("*/run.json")), None)


def result(trial: Path) -> dict[str, Any] | None:
    """What the trial's run came to; None while it is not finished."""
    run = run_folder(trial)
    path = None if run is None else run / RESULT
    return dict(read_json(path)) if path is not None and path.exists() else None


def evaluations(trial: Path, metric: str, every: int, epochs: int) -> dict[int, float]:
    """Epochs done -> the metric then.

    Args:
        trial: the trial's folder.
        metric: its name.
        every: epochs between evaluations.
        epochs: of the whole run; the last one is always evaluated.
    """
    run = run_folder(trial)
    path = None if run is None else run / METRICS
    if path is None or not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    found = [float(r[metric]) for r in records if r["kind"] == "evaluation" and metric in r]
    return {min(place * every, epochs): value for place, value in enumerate(found, start=1)}


def as_kept(values: dict[int, float], direction: Direction) -> dict[int, float]:
    """Epochs done -> value of the model that is kept then: the best so far, or the last one."""
    if direction is Direction.minimize:
        return values
    best, kept = -math.inf, {}
    for epoch, value in values.items():
        best = max(best, value) if not math.isnan(value) else best
        kept[epoch] = best if math.isfinite(best) else math.nan
    return kept
