"""A study shared by processes: claims, orphans, failures, pruning and its journal."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from feature_repo.contract.errors import ConfigError
from trainer.tuning.config import Kind, SearchConfig, Setting
from trainer.tuning.lease import file_time
from trainer.tuning.study import JOURNAL, Claim, Outcome, Study, mend

SEARCH = SearchConfig(
    metric="recall",
    trials=6,
    reduction_factor=2,
    space={
        "optimizer.dense_lr": Setting(Kind.float, 1e-4, 1e-2, log=True),
        "model.num_negatives": Setting(Kind.int, 10, 20),
        "model.hidden": Setting(Kind.categorical, choices=["[8]", "[16, 8]"]),
    },
)


def open_study(folder: Path, search: SearchConfig = SEARCH) -> Study:
    settings = {"run": {"cutoff": "t1"}, "search": search.identity(), "overrides": []}
    return Study.open(folder, search, settings)


def claimed(study: Study) -> Claim:
    claim = study.claim()
    assert claim is not None
    return claim


def finish(study: Study, claim: Claim, *values: float) -> bool:
    """Report an epoch after the other; whether the trial was pruned."""
    pruned = study.report(claim, dict(enumerate(values, start=1)), len(values))
    outcome = Outcome.PRUNED if pruned else Outcome.COMPLETE
    study.tell(claim, outcome, values[-1], "")
    return pruned


def silent_for(claim: Claim, seconds: float) -> None:
    """Let a trial's process be of another machine, and quiet."""
    path = claim.lease.path
    path.write_text(path.read_text().replace('"machine": "', '"machine": "not '))
    then = file_time(path.parent) - seconds
    os.utime(path, (then, then))


def test_processes_that_claim_at_once_get_exactly_the_number_of_trials(tmp_path: Path) -> None:
    studies = [open_study(tmp_path) for _ in range(4)]
    numbers: list[int] = []

    def work(study: Study) -> None:
        while (claim := study.claim()) is not None:
            numbers.append(claim.number)

    threads = [threading.Thread(target=work, args=[study]) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(SEARCH.trials))
    assert len({str(trial.params) for trial in studies[0].trials()}) == SEARCH.trials


def test_values_depend_on_the_number_and_not_on_the_process(tmp_path: Path) -> None:
    alone = open_study(tmp_path / "alone")
    one, other = open_study(tmp_path / "shared"), open_study(tmp_path / "shared")
    alternating = [claimed(study).overrides() for study in (one, other, one, other)]

    assert [claimed(alone).overrides() for _ in range(4)] == alternating


def test_a_quiet_trial_goes_to_another_process_after_the_grace_period(tmp_path: Path) -> None:
    study, other = open_study(tmp_path), open_study(tmp_path)
    claim = claimed(study)
    silent_for(claim, SEARCH.grace_s / 2)
    assert claimed(other).number == 1
    assert other.waits

    silent_for(claim, SEARCH.grace_s + 5)
    taken = claimed(other)

    assert taken.number == 0
    assert taken.overrides() == claim.overrides()
    assert not claim.lease.is_mine
    assert not other.waits


def test_a_trial_that_kills_its_processes_fails_and_is_replaced(tmp_path: Path) -> None:
    study = open_study(tmp_path, replace(SEARCH, trials=1, max_failures=2))
    for _ in range(3):
        silent_for(claimed(study), SEARCH.grace_s + 5)

    assert claimed(study).number == 1
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_trial_that_gets_on_between_deaths_is_not_given_up(tmp_path: Path) -> None:
    study = open_study(tmp_path, replace(SEARCH, trials=1, max_failures=2))
    for epoch in range(5):
        claim = claimed(study)
        study.report(claim, {epoch: 0.5}, 1)
        silent_for(claim, SEARCH.grace_s + 5)

    assert claimed(study).number == 0


def test_a_stopped_trial_is_the_next_one(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    claim = claimed(study)
    study.tell(claim, Outcome.STOPPED, None, "")

    assert claimed(open_study(tmp_path)).number == claim.number


def test_a_trial_that_got_only_some_values_before_its_process_died_gets_the_rest(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path)
    trial = study.optuna.ask()
    SEARCH.space["model.num_negatives"].suggest(trial, "model.num_negatives")

    claim = claimed(study)

    assert claim.number == trial.number
    assert claim.trial.params.keys() == SEARCH.space.keys()
    assert claim.trial.params["model.num_negatives"] == trial.params["model.num_negatives"]


def test_a_failed_trial_is_replaced(tmp_path: Path) -> None:
    study = open_study(tmp_path, replace(SEARCH, trials=1))
    study.tell(claimed(study), Outcome.FAILED, None, "out of memory")
    before = study.is_finished

    assert not finish(study, claimed(study), 0.5)

    assert study.claim() is None
    assert (before, study.is_finished) == (False, True)
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials()[0].user_attrs == {"error": "out of memory"}


def test_more_trials_go_on_with_the_study(tmp_path: Path) -> None:
    study = open_study(tmp_path, replace(SEARCH, trials=1))
    finish(study, claimed(study), 0.5)
    assert study.claim() is None

    assert claimed(open_study(tmp_path)).number == 1


def test_only_the_best_half_goes_past_each_rung(tmp_path: Path) -> None:
    study = open_study(tmp_path)

    assert not finish(study, claimed(study), 0.5, 0.6, 0.6, 0.6, 0.6)
    assert finish(study, claimed(study), 0.4, 0.9, 0.9, 0.9, 0.9)
    assert finish(study, claimed(study), 0.6, 0.5, 0.9, 0.9, 0.9)
    assert not finish(study, claimed(study), 0.6, 0.7, 0.7, 0.8, 0.8)

    assert [trial.last_step for trial in study.trials()] == [5, 1, 2, 5]
    best = study.best
    assert best is not None
    assert best.number == 3


def test_a_value_that_is_no_number_is_pruned(tmp_path: Path) -> None:
    study = open_study(tmp_path)

    assert finish(study, claimed(study), math.nan, math.nan)


def test_the_last_epoch_is_never_pruned(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    finish(study, claimed(study), 0.9, 0.9)

    assert not study.report(claimed(study), {1: 0.1}, 1)


def test_values_that_were_told_are_not_told_again(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    claim = claimed(study)
    study.report(claim, {1: 0.1}, 9)

    study.report(claim, {1: 0.7, 2: 0.8}, 9)

    assert study.trials()[0].intermediate_values == {1: 0.1, 2: 0.8}


def test_another_space_or_run_is_refused_with_the_keys_named(tmp_path: Path) -> None:
    open_study(tmp_path)
    space = {**SEARCH.space, "model.num_negatives": Setting(Kind.int, 10, 30)}

    with pytest.raises(ConfigError, match=r"space\.model\.num_negatives\.high differ"):
        open_study(tmp_path, replace(SEARCH, space=space))
    with pytest.raises(ConfigError, match="seed differ"):
        open_study(tmp_path, replace(SEARCH, seed=1))


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    claim = claimed(study)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + b'{"op_code": 6, "wor')

    again = open_study(tmp_path)

    lines = (tmp_path / JOURNAL).read_bytes()
    assert lines.startswith(whole)
    assert b'"wor{' not in lines
    assert again.trials()[0].params == claim.trial.params


def test_a_journal_that_is_not_there_is_not_mended(tmp_path: Path) -> None:
    mend(tmp_path / JOURNAL)

    assert not list(tmp_path.iterdir())
