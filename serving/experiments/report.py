"""The report of an experiment: what each variant did for its users, and whether to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from serving.experiments.config import Experiment, Guardrails
from serving.experiments.outcomes import Outcomes, Window
from serving.experiments.statistics import (
    LEVEL,
    SRM_ALARM,
    Comparison,
    Difference,
    compare,
    false_discovery,
    sample_ratio,
)


@dataclass(frozen=True)
class Metric:
    """sum(y) / sum(x) over users."""

    name: str
    title: str
    y: str
    """Column of ``Outcomes``."""
    x: str | None = None
    """Column of ``Outcomes``; None: each user counts as 1."""
    percent: bool = False
    """Whether it is a share."""


METRICS = (
    Metric("conversion", "users who bought", "converted", percent=True),
    Metric("click_through", "clicks per item shown", "clicks", "shown", percent=True),
    Metric("add_to_cart", "users who put into a basket", "carted", percent=True),
    Metric("order_value", "revenue per order", "revenue", "orders"),
    Metric("revenue_per_user", "revenue per user", "revenue"),
    Metric("retention", "users who came back", "returned", "eligible", percent=True),
    Metric("spend_to_date", "spend per user, ever", "spend"),
)
GUARDS = (
    Metric("latency_ms", "ms per answer", "took_ms", "answers"),
    Metric("degraded_share", "answers without a stage", "degraded", "answers", percent=True),
)


class Guard(StrEnum):
    """What a guardrail says of a variant."""

    OK = "ok"
    """The interval ends below the margin."""
    BREACHED = "breached"
    """It is worse, surely, and by more than the margin, as far as is known."""
    UNCLEAR = "unclear"
    """More users are needed to say."""


@dataclass(frozen=True)
class Result:
    """One metric of all variants."""

    metric: Metric
    plain: Comparison
    cuped: Comparison | None
    """None where nothing is known of the time before, and for guardrails."""
    discoveries: tuple[float | None, ...] = ()
    """Per variant after the control: p of the better comparison, adjusted for all metrics and
    variants of the report."""

    @property
    def best(self) -> Comparison:
        """By CUPED, where there is that."""
        return self.cuped or self.plain


@dataclass(frozen=True)
class Report:
    """Everything that is told of an experiment."""

    experiment: Experiment
    window: Window
    variants: tuple[str, ...]
    """The control first."""
    users: tuple[int, ...]
    sample_ratio: float | None
    """The p of the numbers of users under the weights."""
    results: tuple[Result, ...]
    guards: tuple[Result, ...]
    verdicts: dict[str, tuple[Guard, ...]]
    """Guardrail -> per variant after the control."""
    latency_p95: tuple[float | None, ...]
    """Milliseconds, per variant."""
    notes: list[str] = field(default_factory=list)

    @property
    def alarm(self) -> bool:
        """Whether the users are not split as the weights say: then nothing else holds."""
        return self.sample_ratio is not None and self.sample_ratio < SRM_ALARM

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "revision": self.experiment.revision,
            "start": self.window.start.isoformat(),
            "until": self.window.until.isoformat(),
            "level": LEVEL,
            "variants": list(self.variants),
            "users": list(self.users),
            "sample_ratio": {"p": self.sample_ratio, "alarm": self.alarm},
            "metrics": {one.metric.name: _json(one) for one in self.results},
            "guardrails": {
                one.metric.name: {**_json(one), "verdicts": list(self.verdicts[one.metric.name])}
                for one in self.guards
            },
            "latency_p95_ms": list(self.latency_p95),
            "notes": self.notes,
        }


def _json(result: Result) -> dict[str, Any]:
    return {
        "title": result.metric.title,
        "plain": asdict(result.plain),
        "cuped": None if result.cuped is None else asdict(result.cuped),
        "p_adjusted": list(result.discoveries),
    }


def make_report(
    experiment: Experiment, window: Window, outcomes: Outcomes, now: datetime
) -> Report:
    """Estimate every metric.

    Args:
        experiment: whose variants are compared.
        window: the time that was looked at.
        outcomes: what the users did in it.
        now: the wall clock.
    """
    names = tuple(experiment.variants)
    before = outcomes.columns["before"]
    covariate = before if len(before) and before.any() else None
    results = [measure(metric, outcomes, len(names), covariate) for metric in METRICS]
    guards = tuple(measure(metric, outcomes, len(names), None) for metric in GUARDS)
    counts = np.bincount(outcomes.variant_U, minlength=len(names))
    weights = [variant.weight for variant in experiment.variants.values()]
    return Report(
        experiment=experiment,
        window=window,
        variants=names,
        users=tuple(int(count) for count in counts),
        sample_ratio=sample_ratio(counts, weights),
        results=_adjusted(results),
        guards=guards,
        verdicts={one.metric.name: _verdicts(one, experiment.guardrails) for one in guards},
        latency_p95=tuple(
            float(np.percentile(took, 95)) if len(took) else None for took in outcomes.took_ms
        ),
        notes=[
            *outcomes.notes,
            *_notes(experiment, now, covariate is not None, window.before_days),
        ],
    )


def measure(
    metric: Metric, outcomes: Outcomes, num_variants: int, covariate: np.ndarray[Any, Any] | None
) -> Result:
    """Estimate one metric, with and without the covariate."""
    y = outcomes.columns[metric.y]
    x = np.ones_like(y) if metric.x is None else outcomes.columns[metric.x]
    plain = compare(y, x, outcomes.variant_U, num_variants)
    adjusted = None
    if covariate is not None:
        adjusted = compare(y, x, outcomes.variant_U, num_variants, covariate)
    return Result(metric, plain, adjusted)


def _adjusted(results: Sequence[Result]) -> tuple[Result, ...]:
    every = [one.p for result in results for one in result.best.differences if one.p is not None]
    rest = iter(false_discovery(every))
    return tuple(
        Result(
            result.metric,
            result.plain,
            result.cuped,
            tuple(None if one.p is None else next(rest) for one in result.best.differences),
        )
        for result in results
    )


def _verdicts(result: Result, margins: Guardrails) -> tuple[Guard, ...]:
    if result.metric.name == "latency_ms":
        return tuple(
            verdict(one.relative, one.relative_low, one.relative_high, margins.latency)
            for one in result.plain.differences
        )
    return tuple(_degraded(one, margins.degraded) for one in result.plain.differences)


def _degraded(one: Difference, margin: float) -> Guard:
    if one.value == 0 and one.low is None:  # not one answer differs
        return Guard.OK
    return verdict(one.value, one.low, one.high, margin)


def verdict(value: float | None, low: float | None, high: float | None, margin: float) -> Guard:
    """What an interval says of a margin above which it is too bad."""
    if value is None or low is None or high is None:
        return Guard.UNCLEAR
    if high < margin:
        return Guard.OK
    return Guard.BREACHED if low > 0 and value > margin else Guard.UNCLEAR


def _notes(
    experiment: Experiment, now: datetime, known_before: bool, before_days: float
) -> list[str]:
    notes = []
    if now < experiment.end:
        notes.append(
            f"The experiment runs until {experiment.end.isoformat()}. The intervals hold for one "
            "look at the end: who stops at the first good day is wrong more often than they say."
        )
    if not known_before:
        notes.append(
            f"No user is known to have spent anything in the {before_days:g} days before the "
            "start, so that there is no CUPED: name events with --events, or --before-days."
        )
    return notes
