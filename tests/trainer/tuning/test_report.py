"""What a study came to, as numbers, tables and an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from feature_repo.contract.errors import BadInput
from trainer.tuning.config import Kind, SearchConfig, Setting
from trainer.tuning.report import Result, best_yaml, kept_epoch, write_report
from trainer.tuning.study import Outcome, Study

SEARCH = SearchConfig(
    metric="recall",
    space={
        "optimizer.dense_lr": Setting(Kind.float, 0.0, 1.0),
        "model.hidden": Setting(Kind.categorical, choices=["[8]", "[16, 8]"]),
    },
)
SPACE: dict[str, BaseDistribution] = {
    "optimizer.dense_lr": FloatDistribution(0.0, 1.0),
    "model.hidden": CategoricalDistribution(["[8]", "[16, 8]"]),
}
OVERRIDES = [
    *("experiment=complete_journey/two_tower", "data=parquet", "data.root=/x", "cutoff=t1"),
    *("paths.runs=/y", "sharding.device=cpu", "model=two_tower", "optimizer.dense_lr=0.5"),
    *("model.dim=32", "trainer.compute=bf16"),
]


def make_study(folder: Path, num_trials: int) -> Study:
    """Trials whose learning rate decides; the other setting does nothing."""
    settings: dict[str, Any] = {
        "experiment": "complete_journey/two_tower",
        "search_name": "two_tower",
        "overrides": OVERRIDES,
        "run": {"experiment": "shop", "cutoff": "2021-02-10", "trainer": {"epochs": 3}},
        "search": SEARCH.identity(),
    }
    study = Study.open(folder, SEARCH, settings)
    for number in range(num_trials):
        rate = number / num_trials
        complete = number % 2 == 1
        study.optuna.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                params={
                    "optimizer.dense_lr": rate,
                    "model.hidden": ["[8]", "[16, 8]"][number % 3 // 2],
                },
                distributions=SPACE,
                intermediate_values={1: rate, 2: rate + 1, 3: rate + 1} if complete else {1: rate},
                value=rate + 1 if complete else rate,
            )
        )
    return study


def test_what_decides_is_important_and_what_does_nothing_is_not(tmp_path: Path) -> None:
    make_study(tmp_path, 40)

    found = Result.load(tmp_path).importances()

    assert list(found) == ["optimizer.dense_lr", "model.hidden"]
    assert found["optimizer.dense_lr"] > 0.9


def test_few_trials_tell_nothing_of_importance(tmp_path: Path) -> None:
    make_study(tmp_path, 4)

    assert Result.load(tmp_path).importances() == {}
    write_report(tmp_path)
    assert not (tmp_path / "importance.png").exists()
    assert "do not tell" in (tmp_path / "report.md").read_text()


def test_the_report_holds_tables_plots_and_the_best_experiment(tmp_path: Path) -> None:
    make_study(tmp_path, 40)

    write_report(tmp_path)

    text = (tmp_path / "report.md").read_text()
    assert "Trials: 20 complete, 20 pruned, 0 failed, 0 running." in text
    assert "trained 80 epochs; without pruning it would have been 120." in text
    assert "| 39 | 1.9750 | 3 | 2 | [8] | 0.975 |" in text
    for name in ("history.png", "importance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text


def test_the_best_experiment_holds_what_was_set_and_found_and_not_where_it_ran(
    tmp_path: Path,
) -> None:
    make_study(tmp_path, 40)

    text = best_yaml(Result.load(tmp_path))

    assert text.startswith("# @package _global_\n")
    assert yaml.safe_load(text) == {
        "defaults": ["/experiment/complete_journey/two_tower", {"override /model": "two_tower"}],
        "experiment": "shop_tuned",
        "model": {"dim": 32, "hidden": [8]},
        "optimizer": {"dense_lr": 0.975},
        "trainer": {"compute": "bf16"},
    }


def test_the_report_says_why_trials_failed(tmp_path: Path) -> None:
    study = make_study(tmp_path, 4)
    claim = study.claim()
    assert claim is not None
    study.tell(claim, Outcome.FAILED, None, "Out of memory.")

    write_report(tmp_path)

    assert "## Failed trials\n\n- 4: Out of memory.\n" in (tmp_path / "report.md").read_text()


def test_a_trial_keeps_its_best_epoch(tmp_path: Path) -> None:
    study = make_study(tmp_path, 2)

    assert kept_epoch(study.trials()[1]) == 2


def test_without_a_complete_trial_there_is_no_best_one(tmp_path: Path) -> None:
    make_study(tmp_path, 1)

    with pytest.raises(BadInput, match=r"No trial of .* is complete yet"):
        write_report(tmp_path)
