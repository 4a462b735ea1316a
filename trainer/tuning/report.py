"""What a study came to: ``report.md``, two plots, and ``best.yaml``, a ready experiment."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from feature_repo.contract.artifacts import atomic_path, read_json
from feature_repo.contract.errors import ArtifactError, BadInput
from trainer.config import CONF
from trainer.tuning.config import as_override
from trainer.tuning.study import ERROR, JOURNAL, NAME, SETTINGS, open_journal

log = logging.getLogger(__name__)

BEST, REPORT = "best.yaml", "report.md"
SHOWN = 10
"""Trials in the table."""
LEAST = 10
"""Trials without which nothing is said of what matters."""
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
OF_ONE_RUN = (
    *("cutoff", "data", "debug", "experiment", "model.earlier", "model.validation", "paths"),
    *("retriever", "seed", "sharding", "validate", "warm_start"),
)
"""Settings, and groups of them, that say what a run reads and where it runs."""


@dataclass(frozen=True)
class Result:
    """A study as its folder tells it."""

    folder: Path
    settings: dict[str, Any]
    study: optuna.Study

    @staticmethod
    def load(folder: Path) -> Result:
        """Read a study's folder.

        Raises:
            ArtifactError: there is no study in it.
        """
        if not (folder / JOURNAL).exists():
            raise ArtifactError(f"{folder} holds no study; name the folder that trainer.tune told.")
        study = optuna.load_study(study_name=NAME, storage=open_journal(folder / JOURNAL))
        return Result(folder, dict(read_json(folder / SETTINGS)), study)

    @property
    def metric(self) -> str:
        """What was sought."""
        return str(self.settings["search"]["metric"])

    @property
    def epochs(self) -> int:
        """That a trial gets if it is not pruned."""
        return int(self.settings["run"]["trainer"]["epochs"])

    @property
    def measured(self) -> list[FrozenTrial]:
        """Complete and pruned trials with a value, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found = self.study.get_trials(deepcopy=False, states=states)
        return [t for t in found if t.value is not None and math.isfinite(t.value)]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """Complete trials before pruned ones, the better before the worse."""
        sign = -1.0 if self.study.direction is optuna.study.StudyDirection.MAXIMIZE else 1.0
        return sorted(
            self.measured,
            key=lambda trial: (trial.state is TrialState.PRUNED, sign * (trial.value or 0.0)),
        )

    @property
    def best(self) -> FrozenTrial:
        """The best complete trial.

        Raises:
            BadInput: none is complete.
        """
        ranked = self.ranked
        if not ranked or ranked[0].state is not TrialState.COMPLETE:
            raise BadInput(f"No trial of {self.folder} is complete yet: there is no best one.")
        return ranked[0]

    def importances(self) -> dict[str, float]:
        """Setting -> share of what decides whether a trial is among the better ones.

        By PED-ANOVA (Watanabe et al., 2023), on the values after the first epochs that every trial
        got: only there can all of them be compared. Empty where they are too few, or all alike.
        """
        early = optuna.create_study(direction=self.study.direction)
        for trial in self.measured:
            first = self._first(trial)
            if first is not None:
                copy = optuna.trial.create_trial(
                    params=trial.params, distributions=trial.distributions, value=first
                )
                early.add_trial(copy)
        if len(early.trials) < LEAST or len({trial.value for trial in early.trials}) < 2:
            return {}
        return optuna.importance.get_param_importances(early)

    def _first(self, trial: FrozenTrial) -> float | None:
        least = self.settings["search"]["min_epochs"]
        values = sorted(trial.intermediate_values.items())
        found = next((value for epoch, value in values if epoch >= least), None)
        return None if found is None or math.isnan(found) else found


def kept_epoch(trial: FrozenTrial) -> int:
    """The epoch whose value the trial has; see ``Direction``."""
    return min(epoch for epoch, value in trial.intermediate_values.items() if value == trial.value)


def write_report(folder: Path) -> Path:
    """Write everything into the study's folder, and return it.

    Raises:
        ArtifactError: there is no study in it.
        BadInput: no trial is complete.
    """
    from trainer.tuning.plots import draw_history, draw_importances  # Matplotlib takes a second

    result = Result.load(folder)
    best, importances = result.best, result.importances()
    _write(folder / BEST, best_yaml(result))
    draw_history(result, folder / "history.png")
    if importances:
        draw_importances(importances, result, folder / "importance.png")
    _write(folder / REPORT, report(result, importances))
    log.info("The best of %d trials is %d: %s.", len(result.measured), best.number, best.params)
    log.info("Wrote %s and %s into %s.", REPORT, BEST, folder)
    return folder


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report(result: Result, importances: dict[str, float]) -> str:
    """The page, as Markdown."""
    parts = [
        f"# Tuning {result.settings['experiment']}: {result.metric}",
        _summary(result),
        "## Best trials\n\n" + _table(result),
        "![history](history.png)",
        "## What matters\n\n" + _importance_text(importances, result),
        *_failures(result),
        _how_to_use(result),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(result: Result) -> str:
    trials = result.study.get_trials(deepcopy=False)
    counts = [
        f"{sum(trial.state is state for trial in trials)} {name}" for state, name in STATES.items()
    ]
    trained = sum(trial.last_step or 0 for trial in result.measured)
    whole = len(result.measured) * result.epochs
    return (
        f"Trials: {', '.join(counts)}. Complete and pruned ones trained {trained} epochs; without "
        f"pruning it would have been {whole}. Search: {result.settings['search_name']}; cut-off "
        f"{result.settings['run']['cutoff']}, judged on the window after it."
    )


def _table(result: Result) -> str:
    names = list(result.settings["search"]["space"])
    lines = [
        f"| trial | {result.metric} | epochs | kept | {' | '.join(names)} |",
        "|---:|---:|---:|---:|" + "---:|" * len(names),
    ]
    for trial in result.ranked[:SHOWN]:
        pruned = " (pruned)" if trial.state is TrialState.PRUNED else ""
        values = [short(trial.params.get(name)) for name in names]
        lines.append(
            f"| {trial.number}{pruned} | {trial.value:.4f} | {trial.last_step} | "
            f"{kept_epoch(trial)} | {' | '.join(values)} |"
        )
    return "\n".join(lines)


def short(value: Any) -> str:
    """A setting's value to be read by people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance_text(importances: dict[str, float], result: Result) -> str:
    if not importances:
        return f"Less than {LEAST} trials, or trials that are all alike, do not tell."
    lines = ["| setting | importance |", "|---|---:|"]
    lines += [f"| {name} | {share:.2f} |" for name, share in importances.items()]
    least = result.settings["search"]["min_epochs"]
    about = (
        f"Shares of what decides whether a trial is among the better ones in epoch {least}, "
        "which all trials reached (PED-ANOVA)."
    )
    return "\n".join([*lines, "", about, "", "![importance](importance.png)"])


def _failures(result: Result) -> list[str]:
    failed = result.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    lines = [f"- {trial.number}: {trial.user_attrs.get(ERROR, 'unknown')}" for trial in failed]
    return ["## Failed trials\n\n" + "\n".join(lines)] if lines else []


def _how_to_use(result: Result) -> str:
    name = f"{result.settings['run']['experiment']}_tuned"
    return (
        "## Use it\n\n```bash\n"
        f"cp {result.folder / BEST} conf/experiment/{name}.yaml\n"
        f"python -m trainer experiment={name} cutoff=TIME\n```"
    )


def best_yaml(result: Result) -> str:
    """An experiment with the best trial's values, to be put into ``conf/experiment/``.

    What says which data is read, and where, is left to the command line.
    """
    best, settings = result.best, result.settings
    searched = [as_override(key, value) for key, value in best.params.items()]
    groups, values = _parsed([*settings["overrides"], *searched])
    defaults: list[Any] = [f"/experiment/{settings['experiment']}"]
    defaults += [{f"override /{group}": choice} for group, choice in groups.items()]
    content = {
        "defaults": defaults,
        "experiment": f"{settings['run']['experiment']}_tuned",
        **values,
    }
    kept, space = kept_epoch(best), settings["search_name"]
    comments = [
        "# @package _global_",
        f"# Trial {best.number} of {len(result.measured)} of hparams_search={space}: "
        f"{result.metric} {best.value:.4f}",
        f"# in epoch {kept} of {result.epochs}. Without validation the last epoch is kept: set "
        "trainer.epochs.",
    ]
    return "\n".join(comments) + "\n" + OmegaConf.to_yaml(OmegaConf.create(content))


def _parsed(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Chosen groups, and other settings as a tree; later overrides win."""
    groups: dict[str, str] = {}
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if any(key == name or key.startswith(f"{name}.") for name in OF_ONE_RUN):
            continue
        if (CONF / key).is_dir():
            groups[key] = str(override.value())
        else:
            _set(values, key.split("."), override.value())
    return groups, values


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
