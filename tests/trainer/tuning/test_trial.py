"""Reading a trial's run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainer.tuning.config import Direction
from trainer.tuning.trial import as_kept, evaluations, result, run_folder


def run_of(trial: Path, *values: float) -> Path:
    """A run's folder with evaluations, and a line that is being written."""
    run = trial / "two_tower-12345678"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    lines = [{"step": 9, "kind": "train", "loss": 1.0}]
    lines += [{"step": 10, "kind": "evaluation", "recall": value} for value in values]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"step": 1')
    return run


def test_evaluations_are_told_by_the_epochs_that_were_done(tmp_path: Path) -> None:
    run_of(tmp_path, 0.1, 0.2, 0.3)

    assert evaluations(tmp_path, "recall", 1, 9) == {1: 0.1, 2: 0.2, 3: 0.3}
    assert evaluations(tmp_path, "recall", 2, 5) == {2: 0.1, 4: 0.2, 5: 0.3}
    assert evaluations(tmp_path, "precision", 1, 9) == {}


def test_a_trial_that_did_not_begin_has_nothing(tmp_path: Path) -> None:
    assert run_folder(tmp_path) is None
    assert result(tmp_path) is None
    assert evaluations(tmp_path, "recall", 1, 9) == {}


def test_a_finished_run_has_a_result(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert result(tmp_path) is None

    (run / "result.json").write_text('{"recall": 0.5}')

    assert result(tmp_path) == {"recall": 0.5}


def test_what_is_sought_to_be_high_counts_as_the_best_so_far() -> None:
    values = {1: 0.2, 2: 0.5, 3: math.nan, 4: 0.4}

    assert as_kept(values, Direction.maximize) == {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.5}
    assert as_kept({1: 0.2, 2: 0.5}, Direction.minimize) == {1: 0.2, 2: 0.5}


def test_a_run_that_never_measured_a_number_has_none() -> None:
    assert as_kept({1: math.nan}, Direction.maximize)[1] == pytest.approx(math.nan, nan_ok=True)
