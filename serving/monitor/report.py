"""Everything that one look of the monitor found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo.contract.event_log import log_files
from feature_repo.contract.snapshot import DAY_S, Snapshot
from serving.experiments.outcomes import Line, Lines
from serving.experiments.running import EXPOSURES
from serving.monitor.config import MonitorConfig, Windows
from serving.monitor.drift import Drift, drifts
from serving.monitor.facts import ReleaseFacts
from serving.monitor.joined import join
from serving.monitor.outcomes import Outcome, ScoreBin, outcomes, prediction_drift, score_bins
from serving.monitor.rows import ROWS, read_rows, some


@dataclass(frozen=True)
class Alarm:
    """One thing that is not as it was."""

    kind: str
    """``feature``, ``prediction`` or ``outcome``."""
    name: str
    sentence: str


@dataclass(frozen=True)
class Report:
    """What was looked at, what was found, and what is wrong."""

    project: str
    release: str
    windows: Windows
    features: list[Drift] = field(default_factory=list)
    predictions: list[Drift] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    bins: list[ScoreBin] = field(default_factory=list)
    answers: tuple[int, int] = (0, 0)
    """Recent, and before."""
    notes: list[str] = field(default_factory=list)

    @property
    def alarms(self) -> list[Alarm]:
        """What is wrong; empty where nothing is."""
        found = [
            Alarm("feature", one.name, drift_sentence(one)) for one in self.features if one.alarm
        ]
        found += [
            Alarm("prediction", one.name, drift_sentence(one))
            for one in self.predictions
            if one.alarm
        ]
        return found + [
            Alarm("outcome", one.name, outcome_sentence(one)) for one in self.outcomes if one.alarm
        ]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "project": self.project,
            "release": self.release,
            "from": self.windows.start.isoformat(),
            "until": self.windows.end.isoformat(),
            "history_from": self.windows.earliest.isoformat(),
            "alarm": bool(self.alarms),
            "alarms": [asdict(one) for one in self.alarms],
            "features": [asdict(one) for one in self.features],
            "predictions": [asdict(one) for one in self.predictions],
            "outcomes": [asdict(one) for one in self.outcomes],
            "calibration": [
                {**asdict(one), "low": _finite(one.low), "high": _finite(one.high)}
                for one in self.bins
            ],
            "answers": {"recent": self.answers[0], "before": self.answers[1]},
            "notes": self.notes,
        }


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def drift_sentence(one: Drift) -> str:
    """What has drifted, and how far."""
    said = {
        "values": f"its values are {one.distance:.3f} apart (q = {_q(one.q)})",
        "missing": f"{one.missing_now:.1%} of its values are missing, {one.missing_before:.1%} "
        f"were (q = {_q(one.q_missing)})",
        "index": f"its stability index is {one.index:.2f}, above {one.index_limit:.2f}",
    }
    return f"{one.name} has drifted: {', '.join(said[name] for name in one.alarms)}."


def outcome_sentence(one: Outcome) -> str:
    """What fell, and how far."""
    relative = one.change.relative or 0.0
    verb = "fell" if relative < 0 else "rose"
    return (
        f"{one.name} {verb} by {abs(relative):.1%}, from {one.change.before:.4g} to "
        f"{one.change.now:.4g} (q = {_q(one.q)})."
    )


def _q(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else "<.001"


def look(
    facts: ReleaseFacts,
    folder: Path,
    config: MonitorConfig,
    now: datetime,
    since: datetime | None = None,
) -> Report:
    """Read the logs of a shop and judge them.

    Args:
        facts: of the release that answers.
        folder: of the feedback log, with those of exposures and of served rows.
        config: limits and times.
        now: the wall clock.
        since: nothing before is looked at.
    """
    project = facts.about.project
    windows = config.windows(now, since)
    features, feature_notes = _features(facts, folder, config, windows)
    shown = join(
        windows,
        config.wait_hours,
        Lines(_exposures(folder, project, windows)),
        _feedback(folder / f"{project}.jsonl"),
        config.most_answers,
    )
    recent = int((shown.window_A == 0).sum())
    before = len(shown.window_A) - recent
    notes = [*feature_notes, *_answer_notes(folder, recent, before, shown.share)]
    found, about = prediction_drift(shown, facts, config)
    if about is not None:
        notes.append(f"Scores of first places are compared with those of {about}.")
    return Report(
        project,
        facts.about.version,
        windows,
        features,
        list(found),
        outcomes(shown, facts, config) if recent and before else [],
        score_bins(shown),
        (recent, before),
        notes,
    )


def _features(
    facts: ReleaseFacts, folder: Path, config: MonitorConfig, windows: Windows
) -> tuple[list[Drift], list[str]]:
    schema, user_id = facts.schema, facts.about.user_id
    (recent, before), passed = read_rows(
        folder / ROWS, facts.about.project, windows, schema, user_id
    )
    notes = []
    if passed:
        notes.append(f"{passed} files of served rows are of other features, and were passed over.")
    if not len(recent):
        notes.append(
            "No served rows were logged of late, so that features' drift is not known: start the "
            "server with SHOPREC_LOG_ROWS=0.01."
        )
        return [], notes
    reference = facts.snapshot or _snapshot(before, facts, config)
    if reference is None or reference.fingerprint != schema.fingerprint:
        notes.append(
            f"The release {facts.about.version} has no training snapshot, and no rows were served "
            "before the recent window: features' drift is not known. Export it again."
        )
        return [], notes
    notes.append(f"Features are compared with {reference.rows:,} {reference.about}.")
    counted = reference.count(some(recent, config.most_rows), schema)
    age_days = (windows.end - facts.about.cutoff).total_seconds() / DAY_S
    return drifts(reference.features, counted, config, max(age_days, 0.0)), notes


def _snapshot(before: pa.Table, facts: ReleaseFacts, config: MonitorConfig) -> Snapshot | None:
    """Of what was served before, where a release has none of its training."""
    if not len(before):
        return None
    about = "users that were served before, for the release has no training snapshot"
    return Snapshot.of(some(before, config.most_rows), facts.schema, about)


def _exposures(folder: Path, project: str, windows: Windows) -> list[Path]:
    """The log's files of the windows' days."""
    first, last = (f"{time:%Y-%m-%d}" for time in (windows.earliest, windows.end))
    length = len(first)
    files = sorted((folder / EXPOSURES).glob(f"{project}-*.jsonl"))
    mine = [path for path in files if path.stem[:-length] == f"{project}-"]
    return [path for path in mine if first <= path.stem[-length:] <= last]


def _feedback(path: Path) -> Iterable[Line]:
    return Lines(log_files(path))


def _answer_notes(folder: Path, recent: int, before: int, share: float) -> list[str]:
    notes = []
    if not recent or not before:
        when = "of late" if not recent else "before the recent window"
        notes.append(
            f"No answers were logged {when} in {folder / EXPOSURES}, so that falls are not known: "
            "start the server with SHOPREC_LOG_EXPOSURES=1."
        )
    if share < 1:
        notes.append(f"There are many answers: those of {share:.1%} of the users were read.")
    return notes
