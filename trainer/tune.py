"""Search settings: ``python -m trainer.tune experiment=NAME hparams_search=NAME cutoff=TIME``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.trial import TrialState

from feature_repo.contract.errors import ConfigError, ShoprecError
from trainer.config import choices, compose
from trainer.distributed import set_up_logging
from trainer.run_file import STOPPED
from trainer.tuning.config import GROUP
from trainer.tuning.experiment import METRICS, Experiment
from trainer.tuning.lease import LeaseLost, file_time
from trainer.tuning.report import short, write_report
from trainer.tuning.study import Claim, Outcome, Study
from trainer.tuning.trial import TrialRun, as_kept, evaluations, result

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Seconds between looks at a running trial."""
USAGE = """\
Search settings by asynchronous successive halving: many trials get few epochs, the best of them
more. Any number of processes, such as the tasks of a SLURM array, join one study.

  python -m trainer.tune experiment=NAME hparams_search=NAME cutoff=TIME [KEY=VALUE ...]
  python -m trainer.tune --report FOLDER

  experiment      one of {experiments}
  hparams_search  one of {searches}, or a file NAME.yaml: the metric, and what is searched
  cutoff          t0 or t1, or an ISO time: trials are judged on the window after it, which must
                  end before the test window begins
  hparams_search.KEY=VALUE
                  of the search: trials, metric, direction, reduction_factor, min_epochs, seed,
                  grace_s, max_failures
  KEY=VALUE       settings that all trials share, as of `python -m trainer`; trainer.epochs is what
                  the best ones get

Metrics: {metrics}.

Examples:
  python -m trainer.tune experiment=two_tower hparams_search=two_tower cutoff=t1 trainer.epochs=9
  python -m trainer.tune experiment=wide_deep hparams_search=wide_deep cutoff=t1 \\
    retriever=DIR model.validation=DIR trainer.epochs=9 hparams_search.trials=20
  sbatch --array=0-7 slurm/tune.sbatch experiment=two_tower hparams_search=two_tower cutoff=t1

The last line on stdout is the study's folder: the journal, a folder for each trial, and at the end
report.md, two plots and best.yaml, an experiment to be copied into conf/experiment/. The same
command goes on with the study: trials that were stopped or killed continue from their last
checkpoints. A file STOP in the folder, SIGTERM, SIGUSR1 or SIGINT make a process ask its trial for
a checkpoint and end with exit code 75. The exit code is 1 after an error, which is told.
"""


class StopRequest:
    """Whether this process was asked to stop: by a signal, or a file STOP made since it began."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._since = math.inf
        self._signalled = False

    def watch(self, folder: Path) -> None:
        """Look for a file STOP in a folder; one that is older than this call is not meant."""
        self._path, self._since = folder / "STOP", file_time(folder)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals for requests."""
        names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {name: signal.signal(name, self._note) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    @property
    def asked(self) -> bool:
        """Whether to stop now."""
        if self._signalled or self._path is None:
            return self._signalled
        try:
            return self._path.stat().st_mtime >= self._since
        except FileNotFoundError:
            return False


class Worker:
    """One process of a study: it takes trials until there are none, or until it is to stop."""

    def __init__(self, experiment: Experiment, study: Study, stop: StopRequest) -> None:
        self.experiment = experiment
        self.search = experiment.search
        self.study = study
        self.stop = stop
        self.failures = 0

    def work(self) -> bool:
        """Work; False when asked to stop.

        Raises:
            ConfigError: too many trials failed, or the first one did before it measured anything.
        """
        while not self.stop.asked:
            claim = self.study.claim()
            if claim is not None:
                self._run(claim)
            elif self.study.waits:
                time.sleep(self.study.beat_s)
            else:
                return True
        return False

    def _run(self, claim: Claim) -> None:
        values = ", ".join(claim.overrides())
        log.info("trial %d: %s", claim.number, values)
        try:
            outcome, about = self._train(claim)
            claim.lease.beat()
        except LeaseLost:
            log.warning("trial %d: another process took it over.", claim.number)
            return
        value = self._value(claim) if outcome is Outcome.COMPLETE else None
        self.study.tell(claim, outcome, value, about)
        self._log(claim, outcome, about)
        if outcome is Outcome.FAILED:
            self._count_failure(claim, about)

    def _train(self, claim: Claim) -> tuple[Outcome, str]:
        """Start or continue a trial's run and watch it; how it ended, and why it failed."""
        if self._report(claim):
            return Outcome.PRUNED, ""
        if result(claim.folder) is not None:
            return self._finished(claim)
        try:
            overrides = self.experiment.trial_overrides(claim.overrides())
            compose(overrides)
        except ConfigError as error:
            return Outcome.FAILED, str(error)
        run = TrialRun(claim.folder, overrides)
        try:
            return self._watch(claim, run)
        finally:
            run.kill()

    def _watch(self, claim: Claim, run: TrialRun) -> tuple[Outcome, str]:
        pruned, beaten = False, time.monotonic()
        while (code := run.code) is None:
            if time.monotonic() - beaten > self.study.beat_s:
                claim.lease.beat()
                beaten = time.monotonic()
            pruned = pruned or self._report(claim)
            if pruned or self.stop.asked:
                run.ask_to_stop()
            time.sleep(POLL_S)
        if pruned or self._report(claim):
            return Outcome.PRUNED, ""
        return self._ended(claim, run, code)

    def _ended(self, claim: Claim, run: TrialRun, code: int) -> tuple[Outcome, str]:
        if code == STOPPED or (code < 0 and self.stop.asked):
            return Outcome.STOPPED, ""
        if code != 0:
            return Outcome.FAILED, f"{run.last_words().rstrip('.')} (exit code {code})."
        return self._finished(claim)

    def _finished(self, claim: Claim) -> tuple[Outcome, str]:
        if not math.isfinite(self._value(claim)):
            return Outcome.FAILED, f"{self.search.metric} is not a number."
        return Outcome.COMPLETE, ""

    def _report(self, claim: Claim) -> bool:
        loop = self.experiment.config.trainer
        metric, every = self.search.metric, max(loop.evaluate_every, 1)
        found = evaluations(claim.folder, metric, every, loop.epochs)
        return self.study.report(claim, as_kept(found, self.search.direction), loop.epochs)

    def _value(self, claim: Claim) -> float:
        """Of the model that the finished run kept."""
        return float((result(claim.folder) or {}).get(self.search.metric, math.nan))

    def _count_failure(self, claim: Claim, about: str) -> None:
        self.failures += 1
        measured = any(trial.intermediate_values for trial in self.study.trials())
        if not measured:
            raise ConfigError(
                f"Trial {claim.number} failed before any trial was measured: {about} All of it "
                f"stands in {claim.folder / 'log.txt'}."
            )
        if self.failures >= self.search.max_failures:
            raise ConfigError(
                f"{self.failures} trials of this process failed, the last one with: {about} "
                f"See {claim.folder / 'log.txt'}; then start the same command again."
            )

    def _log(self, claim: Claim, outcome: Outcome, about: str) -> None:
        frozen, best = self.study.trials()[claim.number], self.study.best
        if outcome is Outcome.FAILED:
            log.warning("trial %d failed: %s", claim.number, about)
            return
        epoch = frozen.last_step or 0
        log.info(
            "trial %d %s after %d of %d epochs: %s %.4f (%s); best %s",
            claim.number,
            outcome.value,
            epoch,
            self.experiment.config.trainer.epochs,
            self.search.metric,
            frozen.intermediate_values.get(epoch, math.nan),
            ", ".join(f"{key}={short(value)}" for key, value in frozen.params.items()),
            "none yet" if best is None else f"{best.value:.4f} (trial {best.number})",
        )


def study_name(experiment: Experiment, settings: dict[str, Any]) -> str:
    """``tune-<experiment>-<search>-<8 hex digits of what the trials share>``.

    The searched values are no part of it: a search that changed is refused, not begun beside.
    """
    text = json.dumps(settings["run"], sort_keys=True)
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    searched = Path(experiment.search_name).stem
    return f"tune-{experiment.config.experiment}-{searched}-{digits}"


def tune(experiment: Experiment, stop: StopRequest) -> tuple[Path, bool]:
    """Join the study until it is done; its folder, and whether this process was not stopped."""
    settings = experiment.settings()
    runs = Path(experiment.config.paths.runs).resolve()
    study = Study.open(runs / study_name(experiment, settings), experiment.search, settings)
    _tell_start(experiment, study)
    stop.watch(study.folder)
    if not Worker(experiment, study, stop).work():
        log.info("Stopped %s; the same command goes on with it.", study.folder)
        return study.folder, False
    if study.is_finished:
        write_report(study.folder)
    else:
        running = len(study.trials(TrialState.RUNNING))
        log.info("Nothing is left to begin; %d trials run in other processes.", running)
    return study.folder, True


def _tell_start(experiment: Experiment, study: Study) -> None:
    search, epochs = experiment.search, experiment.config.trainer.epochs
    done = len(study.finished)
    log.info("%s: %d of %d trials are done.", study.folder, done, search.trials)
    if search.min_epochs >= epochs:
        log.warning(
            "No trial is ended early: trainer.epochs=%d is not above min_epochs=%d.",
            epochs,
            search.min_epochs,
        )


def usage() -> str:
    """The text of ``--help``."""
    kinds = [
        f"{kind.__name__.removesuffix('ModelConfig')} has {', '.join(names)}"
        for kind, names in METRICS.items()
    ]
    return USAGE.format(
        experiments=", ".join(choices("experiment")),
        searches=", ".join(choices(GROUP)),
        metrics="; ".join(kinds),
    )


def main(arguments: Sequence[str]) -> int:
    """Tune; return 0, 1 after an error that is told on stderr, 75 when asked to stop."""
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    set_up_logging()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "--report" in arguments:
            folder, done = write_report(_reported(arguments)), True
        else:
            stop = StopRequest()
            with stop.listening():
                folder, done = tune(Experiment.of(arguments), stop)
    except ShoprecError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0 if done else STOPPED


def _reported(arguments: Sequence[str]) -> Path:
    if len(arguments) != 2 or arguments[0] != "--report":
        raise ConfigError("--report takes one folder of a study, and nothing else.")
    return Path(arguments[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
