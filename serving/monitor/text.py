"""A report as text."""

from __future__ import annotations

from serving.experiments.text import DASH, plain_table
from serving.monitor.drift import Drift
from serving.monitor.outcomes import Outcome, ScoreBin
from serving.monitor.report import Report

DRIFT_HEAD = (
    "feature",
    "rows",
    "distance",
    "q",
    "index",
    "limit",
    "missing before",
    "now",
    "q",
    "",
)
OUTCOME_HEAD = ("metric", "before", "now", "relative", "q", "users", "")
BIN_HEAD = ("score from", "to", "places", "clicks before", "now")
UP = "ALARM"


def as_text(report: Report) -> str:
    """Tables and sentences, in Markdown."""
    windows = report.windows
    parts = [
        f"# {report.project}, release {report.release}: {windows.start.isoformat()} to "
        f"{windows.end.isoformat()}, against what was since {windows.earliest.isoformat()}",
        *([f"{UP}: {one.sentence}" for one in report.alarms] or ["No alarm."]),
    ]
    if report.features:
        parts += ["Features", _drifts(report.features)]
    if report.predictions:
        parts += ["Scores", _drifts(report.predictions)]
    if report.outcomes:
        answers = f"{report.answers[0]:,} answers, {report.answers[1]:,} before"
        parts += [f"Online quality ({answers})", _outcomes(report.outcomes)]
    if report.bins:
        parts += ["Calibration: click-through of places with like scores", _bins(report.bins)]
    return "\n\n".join([*parts, *[f"Note: {note}" for note in report.notes]])


def _drifts(found: list[Drift]) -> str:
    rows = [
        (
            one.name,
            f"{one.now:,}",
            f"{one.distance:.3f}",
            _p(one.q),
            f"{one.index:.3f}",
            f"{one.index_limit:.2f}",
            f"{one.missing_before:.1%}",
            f"{one.missing_now:.1%}",
            _p(one.q_missing),
            " ".join(one.alarms) and f"{UP}: {' '.join(one.alarms)}",
        )
        for one in found
    ]
    return plain_table(DRIFT_HEAD, rows)


def _outcomes(found: list[Outcome]) -> str:
    rows = [
        (
            one.title,
            _value(one, one.change.before),
            _value(one, one.change.now),
            _relative(one),
            _p(one.q),
            f"{one.change.users:,}",
            UP if one.alarm else "",
        )
        for one in found
    ]
    return plain_table(OUTCOME_HEAD, rows)


def _bins(found: list[ScoreBin]) -> str:
    rows = [
        (
            f"{one.low:.3g}",
            f"{one.high:.3g}",
            f"{one.places:,}",
            f"{one.expected:.2%}",
            f"{one.observed:.2%}",
        )
        for one in found
    ]
    return plain_table(BIN_HEAD, rows)


def _value(one: Outcome, value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.2%}" if one.percent else f"{value:.4g}"


def _relative(one: Outcome) -> str:
    if one.change.relative is None:
        return DASH
    if one.change.error is None:
        return f"{one.change.relative:+.1%}"
    reach = 1.96 * one.change.error
    low, high = one.change.relative - reach, one.change.relative + reach
    return f"{one.change.relative:+.1%} [{low:+.1%}, {high:+.1%}]"


def _p(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}" if value >= 0.001 else "<.001"
