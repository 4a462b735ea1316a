"""A report as text."""

from __future__ import annotations

from collections.abc import Sequence

from serving.experiments.report import Metric, Report, Result
from serving.experiments.statistics import LEVEL, SRM_ALARM, Comparison

DASH = "-"


def as_text(report: Report) -> str:
    """Tables and sentences, in Markdown."""
    experiment = report.experiment
    parts = [
        f"# {experiment.name}: {report.window.start.isoformat()} to "
        f"{report.window.until.isoformat()}",
        _split(report),
        f"Differences from {report.variants[0]}, {LEVEL:.0%} intervals"
        f"{_about_cuped(report.results)}; q is p adjusted for all comparisons.",
        plain_table(HEAD, [line for result in report.results for line in _lines(report, result)]),
        "Guardrails",
        plain_table(
            GUARD_HEAD, [line for guard in report.guards for line in _guard(report, guard)]
        ),
        *[f"Note: {note}" for note in report.notes],
    ]
    return "\n\n".join(parts)


HEAD = ("metric", "variant", "value", "difference", "relative", "p", "q", "variance less")
GUARD_HEAD = ("guardrail", "variant", "value", "difference", "relative", "verdict")


def _split(report: Report) -> str:
    weights = [variant.weight for variant in report.experiment.variants.values()]
    rows = [
        (name, f"{users:,}", f"{weight / sum(weights):.1%}", _milliseconds(p95))
        for name, users, weight, p95 in zip(
            report.variants, report.users, weights, report.latency_p95, strict=True
        )
    ]
    table = plain_table(("variant", "users", "share wanted", "p95 latency"), rows)
    return f"{table}\n\n{_sample_ratio(report)}"


def _sample_ratio(report: Report) -> str:
    if report.sample_ratio is None:
        return "Sample ratio: there are no users."
    if report.alarm:
        return (
            f"ALARM: sample ratio mismatch (p = {report.sample_ratio:.2g} < {SRM_ALARM}). The "
            "users are not split as the weights say, so that they differ in more than the "
            "variant. Find out why before you read on."
        )
    return f"Sample ratio: as the weights say (p = {report.sample_ratio:.2g})."


def _about_cuped(results: Sequence[Result]) -> str:
    return " after CUPED" if any(result.cuped is not None for result in results) else ""


def _lines(report: Report, result: Result) -> list[tuple[str, ...]]:
    rows = _rows(report, result.metric, result.best)
    ends = [(DASH, DASH, _share(result.best.explained))]
    for one, q in zip(result.best.differences, result.discoveries, strict=True):
        ends.append((_p(one.p), _p(q), ""))
    return [(*row, *end) for row, end in zip(rows, ends, strict=True)]


def _guard(report: Report, guard: Result) -> list[tuple[str, ...]]:
    verdicts = [DASH, *report.verdicts[guard.metric.name]]
    rows = _rows(report, guard.metric, guard.plain)
    return [(*row, str(verdict)) for row, verdict in zip(rows, verdicts, strict=True)]


def _rows(report: Report, metric: Metric, found: Comparison) -> list[tuple[str, ...]]:
    """Name, variant, value, difference and relative difference of each variant."""
    first = found.estimates[0]
    control = (metric.title, report.variants[0], _value(metric, first.value), DASH, DASH)
    rows: list[tuple[str, ...]] = [control]
    for name, estimate, one in zip(
        report.variants[1:], found.estimates[1:], found.differences, strict=True
    ):
        difference = _interval(metric, one.value, one.low, one.high)
        relative = _relative(one.relative, one.relative_low, one.relative_high)
        rows.append(("", name, _value(metric, estimate.value), difference, relative))
    return rows


def _value(metric: Metric, value: float | None, sign: str = "") -> str:
    if value is None:
        return DASH
    return f"{value:{sign}.2%}" if metric.percent else f"{value:{sign},.4g}"


def _interval(metric: Metric, value: float | None, low: float | None, high: float | None) -> str:
    text = _value(metric, value, "+")
    if low is None or high is None:
        return text
    return f"{text} [{_value(metric, low, '+')}, {_value(metric, high, '+')}]"


def _relative(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return DASH
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"


def _p(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}" if value >= 0.001 else "<.001"


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.0%}"


def _milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f} ms"


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as a Markdown table."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"| {' | '.join('-' * width for width in widths)} |"
    return "\n".join([line(head), rule, *map(line, rows)])
