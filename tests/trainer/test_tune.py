"""``python -m trainer.tune``: a study that is stopped, killed, and finished by two processes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from feature_repo.contract.dataset import Dataset
from tests.retrieval import shop
from tests.trainer.shop import SMALL
from trainer import config as trainer_config
from trainer.config import CONF, compose
from trainer.model_config import TwoTowerModelConfig
from trainer.run_file import STOPPED
from trainer.tune import StopRequest, main
from trainer.tuning.experiment import METRICS
from trainer.tuning.report import Result
from trainer.tuning.trial import evaluations, result, run_folder

TRIALS, EPOCHS = 3, 10
GOOD, BAD = 0.1, 1e-6
SEARCH = f"""
metric: recall_all_200
trials: {TRIALS}
reduction_factor: 2
space:
  optimizer.table_lr: {{type: categorical, choices: [{BAD}, {GOOD}]}}
  model.temperature: {{type: float, low: 0.05, high: 0.2, log: true}}
"""
"""By its seed, trial 0 learns and trials 1 and 2 do not."""


@pytest.fixture(scope="module")
def wide_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Return a shop of more items than the 200 whose recall is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "NUM_ITEMS", 600)
        yield shop.make_shop(tmp_path_factory.mktemp("wide"))


def arguments(dataset: Dataset, runs: Path, *overrides: str) -> list[str]:
    search = runs / "search.yaml"
    if not search.exists():
        search.write_text(SEARCH)
    shared = [*SMALL, *shop.overrides(dataset, runs), f"trainer.epochs={EPOCHS}"]
    return [f"hparams_search={search}", *shared, *overrides]


def start(given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.tune", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "It did not happen within two minutes."
        time.sleep(0.05)


def trial_of(runs: Path, number: int) -> Path:
    return next(iter(runs.glob("tune-*")), runs) / "trials" / f"{number:04d}"


def trainers_of(runs: Path) -> list[Path]:
    """Running processes of the trainer itself, by their folders in /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"trainer" in command and any(str(runs).encode() in part for part in command):
            found.append(process)
    return found


@dataclass(frozen=True)
class Studied:
    """What happened to one study."""

    arguments: list[str]
    folder: Path
    stopped_code: int
    stopped_epochs: int
    """Epochs of trial 0 when the first process was stopped."""
    left_after_stop: bool
    """Whether somebody held trial 0 then."""
    outlived: list[Path]
    """Trainers that outlived the killed process."""
    ends: list[tuple[int, str, str]]
    """Exit code, stdout and stderr of the two that ended the study."""

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them, by number."""
        return Result.load(self.folder).study.get_trials()


@pytest.fixture(scope="module")
def studied(wide_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """Return a study whose first process is stopped and whose second one is killed."""
    runs = tmp_path_factory.mktemp("runs")
    given = arguments(wide_shop, runs)
    stopped = start(given)
    wait_for(lambda: bool(evaluations(trial_of(runs, 0), "recall_all_200", 1, EPOCHS)))
    stopped.terminate()
    stopped.communicate(timeout=120)
    epochs = len(evaluations(trial_of(runs, 0), "recall_all_200", 1, EPOCHS))
    held = (trial_of(runs, 0) / "lease.json").exists()
    killed = start(given)
    wait_for(lambda: bool(trainers_of(runs)))
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=120)
    time.sleep(0.2)
    outlived = trainers_of(runs)
    last = [start(given), start(given)]
    ends = [(*process.communicate(timeout=240), process.returncode) for process in last]
    return Studied(
        given,
        next(runs.glob("tune-*")),
        stopped.returncode,
        epochs,
        held,
        outlived,
        [(code, out, err) for out, err, code in ends],
    )


@pytest.mark.slow
def test_two_processes_together_do_exactly_the_number_of_trials(studied: Studied) -> None:
    assert [code for code, _, _ in studied.ends] == [0, 0], studied.ends
    for _, out, _ in studied.ends:
        assert out.splitlines() == [str(studied.folder)]
    begun = [re.findall(r"trial (\d+): optimizer", err) for _, _, err in studied.ends]
    assert all(begun)
    assert sorted(map(int, itertools.chain(*begun))) == list(range(TRIALS))
    assert [trial.number for trial in studied.trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in studied.trials)


@pytest.mark.slow
def test_a_signal_ends_a_process_after_a_checkpoint(studied: Studied) -> None:
    assert studied.stopped_code == STOPPED
    assert 1 <= studied.stopped_epochs < EPOCHS
    assert not studied.left_after_stop


@pytest.mark.slow
def test_the_trial_of_a_stopped_and_of_a_killed_process_goes_on(studied: Studied) -> None:
    folder = studied.folder / "trials" / "0000"

    assert not studied.outlived
    assert studied.trials[0].state is TrialState.COMPLETE
    assert len(list(folder.glob("*/run.json"))) == 1
    assert (folder / "log.txt").read_text().count("Resumed") >= 1
    found = evaluations(folder, "recall_all_200", 1, EPOCHS)
    assert list(found) == list(range(1, EPOCHS + 1))
    assert studied.trials[0].intermediate_values.keys() == found.keys()


@pytest.mark.slow
def test_bad_trials_are_pruned_early_and_keep_their_folders(studied: Studied) -> None:
    for trial in studied.trials:
        folder = studied.folder / "trials" / f"{trial.number:04d}"
        run = run_folder(folder)
        assert run is not None
        if trial.params["optimizer.table_lr"] == GOOD:
            assert trial.state is TrialState.COMPLETE
            assert result(folder) is not None
        else:
            assert trial.state is TrialState.PRUNED
            assert trial.last_step == 1
            assert len(evaluations(folder, "recall_all_200", 1, EPOCHS)) < EPOCHS
            assert list((run / "checkpoints").glob("step-*"))
    assert [trial.state for trial in studied.trials].count(TrialState.PRUNED) == 2


@pytest.mark.slow
def test_a_trials_value_is_that_of_the_model_that_its_run_kept(studied: Studied) -> None:
    for trial in studied.trials:
        kept = result(studied.folder / "trials" / f"{trial.number:04d}")
        assert kept is None or trial.value == kept["recall_all_200"]


@pytest.mark.slow
def test_the_best_trial_is_a_ready_experiment(
    studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = max(studied.trials, key=lambda trial: trial.value or 0.0)
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    shutil.copy(studied.folder / "best.yaml", conf / "experiment" / "better.yaml")
    monkeypatch.setattr(trainer_config, "CONF", conf)

    composed = compose(["experiment=better", "cutoff=t1"])

    assert isinstance(composed.model, TwoTowerModelConfig)
    assert composed.model.temperature == best.params["model.temperature"]
    assert composed.optimizer.table_lr == best.params["optimizer.table_lr"] == GOOD
    assert composed.model.hidden == [16]
    assert composed.trainer.epochs == EPOCHS
    assert composed.experiment == "two_tower_tuned"
    assert not composed.validate


@pytest.mark.slow
def test_the_report_names_trials_and_plots(
    studied: Studied, capsys: pytest.CaptureFixture[str]
) -> None:
    (studied.folder / "report.md").unlink(missing_ok=True)

    assert main(["--report", str(studied.folder)]) == 0

    assert capsys.readouterr().out.splitlines() == [str(studied.folder)]
    text = (studied.folder / "report.md").read_text()
    assert "Trials: 1 complete, 2 pruned, 0 failed, 0 running." in text
    assert "(pruned) | 0." in text
    assert (studied.folder / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_another_space_in_the_same_folder_is_refused(
    studied: Studied, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Path(studied.arguments[0].partition("=")[2])
    search.write_text(SEARCH.replace("high: 0.2", "high: 0.3"))
    try:
        assert main(studied.arguments) == 1
    finally:
        search.write_text(SEARCH)

    said = capsys.readouterr().err
    assert "holds a study of other settings: space.model.temperature.high differ" in said


@pytest.mark.slow
def test_the_models_measure_what_can_be_sought(studied: Studied) -> None:
    run = run_folder(studied.folder / "trials" / "0000")
    assert run is not None
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    measured = next(line for line in lines if line["kind"] == "evaluation")

    assert set(METRICS[TwoTowerModelConfig]) == measured.keys() - {"step", "kind"}


def test_the_first_trial_that_fails_ends_the_study_with_its_words(
    wide_shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(wide_shop, tmp_path, "model.min_buyers=1000000")) == 1

    said = capsys.readouterr().err
    assert "Trial 0 failed before any trial was measured: No item of" in said
    assert "lower model.min_buyers" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.temprature=1", "temprature"),
        ("hparams_search.trial=3", "Key 'trial' not in 'SearchConfig'"),
        ("hparams_search.trials=0", "trials must be above zero; got 0"),
        ("hparams_search.metric=recal", "seeks recal, which two_tower does not measure; choose of"),
        ("validate=false", "leave validate=false out"),
        ("trainer.select=recall_new_200", "leave trainer.select out"),
        ("model.temperature=0.1", "model.temperature is given and searched"),
        ("cutoff=t2", "There is no training set ranking_v1-users-t2"),
        ("experiment=nothing", "experiment/nothing"),
    ],
)
def test_a_mistake_is_refused_before_the_first_trial(
    wide_shop: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    said: str,
) -> None:
    assert main(arguments(wide_shop, tmp_path, override)) == 1

    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("tune-*"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("model.temperature:", "model.temprature:", "searches model.temprature, which cannot be"),
        ("low: 0.05", "low: -1", "With log, low must be above zero; got -1"),
        ("low: 0.05, high: 0.2, log: true", "low: 0, high: 1", "model.temperature must be above"),
        ("model.temperature:", "trainer.epochs:", "space.trainer.epochs cannot be searched"),
        ("type: float", "type: real", "real"),
    ],
)
def test_a_search_that_does_not_hold_is_refused(
    wide_shop: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    said: str,
) -> None:
    given = arguments(wide_shop, tmp_path)
    (tmp_path / "search.yaml").write_text(SEARCH.replace(before, after))

    assert main(given) == 1

    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("tune-*"))


def test_the_test_window_is_never_tuned_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = shop.make_shop(tmp_path / "shop", edge=2)

    assert main(arguments(dataset, tmp_path, "cutoff=t2")) == 1

    said = capsys.readouterr().err
    assert "reaches into the test window" in said
    assert "take cutoff=t1" in said


def test_a_file_stop_counts_for_the_processes_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    time.sleep(0.05)
    request = StopRequest()
    request.watch(tmp_path)
    before = request.asked

    time.sleep(0.05)
    (tmp_path / "STOP").touch()

    assert (before, request.asked) == (False, True)


def test_a_signal_counts_from_the_first_moment(tmp_path: Path) -> None:
    request = StopRequest()
    with request.listening():
        signal.raise_signal(signal.SIGUSR1)
        request.watch(tmp_path)

    assert request.asked
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_help_says_what_can_be_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert "hparams_search  one of two_tower, wide_deep" in shown
    assert "TwoTower has recall_all_200, recall_new_200" in shown
    assert main([]) == 2


def test_a_folder_without_a_study_has_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--report", str(tmp_path)]) == 1
    assert "holds no study" in capsys.readouterr().err
    assert main(["--report"]) == 1
