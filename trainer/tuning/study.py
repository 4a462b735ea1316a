"""A study's folder: its journal, its trials, and who works on which.

Any number of processes share it. Optuna's journal is the record; one lock makes the choice of what
to do next a process's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ConfigError
from trainer.runs import differing
from trainer.tuning.config import SearchConfig, as_override
from trainer.tuning.lease import Lease, exclusively, silence_s

NAME = "study"
JOURNAL = "journal.jsonl"
SETTINGS = "settings.json"
DEATHS, ERROR = "deaths", "error"
"""Of a trial: after which epoch its processes died, and how many of them; why it failed."""
QUIET_BEATS = 3.0
"""Beats that a process may miss before the others wait to see whether it is dead."""


class Outcome(Enum):
    """How the work on a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    STOPPED = "stopped"
    """It can go on where it is."""


@dataclass
class Claim:
    """A trial that this process works on."""

    trial: Trial
    lease: Lease
    folder: Path
    """What belongs to the trial: its run's folder, and ``log.txt``."""

    @property
    def number(self) -> int:
        """Of the trial, from 0."""
        return self.trial.number

    def overrides(self) -> list[str]:
        """The trial's values, as the command line takes them."""
        return [as_override(key, value) for key, value in self.trial.params.items()]


@dataclass
class Study:
    """One search over one experiment's settings, as seen by one process."""

    folder: Path
    search: SearchConfig
    settings: dict[str, Any]
    """What all trials share; see ``open``."""
    optuna: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        self.storage = open_journal(self.folder / JOURNAL)
        self.optuna = optuna.create_study(
            storage=self.storage,
            study_name=NAME,
            direction=self.search.direction.value,
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=self.search.min_epochs,
                reduction_factor=self.search.reduction_factor,
            ),
        )

    @staticmethod
    def open(folder: Path, search: SearchConfig, settings: dict[str, Any]) -> Study:
        """Make a study's folder, or join the study that is there.

        Args:
            folder: of the study.
            search: what is searched.
            settings: "run", what the trials share; "search", ``search.identity()``; others are
                kept for the report, and may differ.

        Raises:
            ConfigError: the folder holds a study of other settings, named.
        """
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        with exclusively(folder / "claim"):
            path = folder / SETTINGS
            if path.exists():
                _require_same(read_json(path), settings, folder)
            else:
                write_json(path, settings)
        return Study(folder, search, settings)

    @property
    def beat_s(self) -> float:
        """Seconds between signs of life."""
        return self.search.grace_s / 12

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in some states, or all."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @property
    def finished(self) -> list[FrozenTrial]:
        """Trials that count: complete or pruned."""
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED)

    @property
    def is_finished(self) -> bool:
        """Whether all trials ended."""
        return len(self.finished) >= self.search.trials and not self.trials(TrialState.RUNNING)

    def claim(self) -> Claim | None:
        """The next trial of this process; None where there is none to begin or to go on with.

        A trial whose process is dead comes first, then new ones up to the number of trials.
        """
        with exclusively(self.folder / "claim"):
            for frozen in self.trials(TrialState.RUNNING):
                orphaned = silence_s(self._lease(frozen.number)) > self.search.grace_s
                if orphaned and not self._is_hopeless(frozen):
                    return self._take(frozen.number)
            every = self.trials()
            counted = [trial for trial in every if trial.state is not TrialState.FAIL]
            if len(counted) >= self.search.trials:
                return None
            self._seed(len(every))
            return self._take(self.optuna.ask().number)

    def _is_hopeless(self, frozen: FrozenTrial) -> bool:
        """Note the death of a trial's process; after too many of them since its last evaluation it
        fails, for it may be the trial that kills them."""
        lease = self._lease(frozen.number)
        if not lease.exists():
            return False  # it was let go
        epoch = frozen.last_step or 0
        at, deaths = frozen.user_attrs.get(DEATHS, (epoch, 0))
        deaths = deaths + 1 if at == epoch else 1
        trial = self._trial(frozen.number)
        trial.set_user_attr(DEATHS, [epoch, deaths])
        if deaths <= self.search.max_failures:
            return False
        trial.set_user_attr(ERROR, f"{deaths} processes died of it after epoch {epoch}.")
        self.optuna.tell(trial, state=TrialState.FAIL)
        lease.unlink()
        return True

    def _trial(self, number: int) -> Trial:
        study_id = self.storage.get_study_id_from_name(NAME)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return Trial(self.optuna, trial_id)

    def _take(self, number: int) -> Claim:
        """Take a running trial, and give it the values that it lacks."""
        self._seed(number)
        trial = self._trial(number)
        for name, setting in self.search.space.items():
            setting.suggest(trial, name)
        lease = Lease.take(self._lease(number))
        return Claim(trial, lease, self._lease(number).parent)

    def _seed(self, number: int) -> None:
        """Draw a trial's values by its number, so that no two processes draw alike."""
        (seed,) = np.random.SeedSequence([self.search.seed, number]).generate_state(1)
        self.optuna.sampler = optuna.samplers.TPESampler(seed=int(seed))

    def _lease(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}" / "lease.json"

    @property
    def waits(self) -> bool:
        """Whether some process has been quiet for so long that its trial may need another."""
        running = self.trials(TrialState.RUNNING)
        quiet = [silence_s(self._lease(trial.number)) for trial in running]
        return any(silence > QUIET_BEATS * self.beat_s for silence in quiet)

    def report(self, claim: Claim, values: dict[int, float], last_epoch: int) -> bool:
        """Tell a trial's values so far; whether it is to be pruned.

        Args:
            claim: the trial.
            values: epochs done -> value, rising; those that were told before are passed over.
            last_epoch: after which a trial is done, and never pruned.
        """
        told = self.trials()[claim.number].intermediate_values
        for epoch, value in values.items():
            if epoch in told:
                continue
            claim.trial.report(value, epoch)
            if epoch < last_epoch and claim.trial.should_prune():
                return True
        return False

    def tell(self, claim: Claim, outcome: Outcome, value: float | None, about: str) -> None:
        """Record how a trial ended, and let it go.

        Args:
            claim: the trial.
            outcome: a stopped trial stays open.
            value: of a complete trial.
            about: why it failed, for the report.
        """
        match outcome:
            case Outcome.COMPLETE:
                self.optuna.tell(claim.trial, value)
            case Outcome.PRUNED:
                self.optuna.tell(claim.trial, state=TrialState.PRUNED)
            case Outcome.FAILED:
                claim.trial.set_user_attr(ERROR, about)
                self.optuna.tell(claim.trial, state=TrialState.FAIL)
            case Outcome.STOPPED:
                pass
        claim.lease.release()

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial."""
        found = self.trials(TrialState.COMPLETE)
        return self.optuna.best_trial if found else None


def open_journal(path: Path) -> JournalStorage:
    """Optuna's record of a study, on a disk that processes share."""
    mend(path)
    lock = JournalFileOpenLock(str(path))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def mend(journal: Path) -> None:
    """Cut off a last line that was not written to its end, as by a machine that lost its power.

    Optuna would append to it, and no process could read on.
    """
    if not journal.exists():
        return
    with exclusively(journal), journal.open("r+b") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())


def _require_same(recorded: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
    names = [name for part in ("run", "search") for name in _differing(recorded, settings, part)]
    if names:
        raise ConfigError(
            f"{folder} holds a study of other settings: {', '.join(names)} differ. Set them as "
            "they were, or give the search another name (a file of its own in conf/hparams_search)."
        )


def _differing(recorded: dict[str, Any], settings: dict[str, Any], part: str) -> list[str]:
    return differing(recorded.get(part), settings[part])
