"""What a server counts, in Prometheus' text format; summed over its workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.answers import Recommendation
from serving.settings import METRICS_VARIABLE
from serving.stages import Run

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "shoprec_requests", "Requests answered.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "shoprec_request_seconds",
            "Time from a request's first byte to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=own,
        )
        self._stages = Histogram(
            "shoprec_stage_seconds",
            "Time of one stage of answers.",
            ["stage"],
            buckets=SECONDS,
            registry=own,
        )
        self._degraded = Counter(
            "shoprec_degraded", "Answers that did without a stage.", ["stage"], registry=own
        )
        self._cached = Counter("shoprec_cached", "Answers that were given again.", registry=own)
        self._feedback = Counter(
            "shoprec_feedback_events",
            "Feedback events, by what became of them.",
            ["outcome"],
            registry=own,
        )
        self._exposures = Counter(
            "shoprec_exposures",
            "Answers of experiments, by whether they were logged or lost.",
            ["outcome"],
            registry=own,
        )
        self._exploration = Counter(
            "shoprec_exploration",
            "Lists that explored, by whether they were learned from or lost, and their rewards.",
            ["outcome"],
            registry=own,
        )
        self._exploration_age = Gauge(
            "shoprec_exploration_age_seconds",
            "Time since a worker last read what exploration learned; it grows while the store is "
            "away.",
            multiprocess_mode="livemax",
            registry=own,
        )
        self._folding_age = Gauge(
            "shoprec_folding_age_seconds",
            "Time since all feedback was last folded into the users' rows; it grows while folding "
            "is behind, stands still or has no store. NaN: nothing was folded yet.",
            multiprocess_mode="mostrecent",
            registry=own,
        )
        self._waiting = Gauge(
            "shoprec_requests_in_progress",
            "Requests that wait for a list or have one made.",
            multiprocess_mode="livesum",
            registry=own,
        )
        self._release = Gauge(
            "shoprec_release_loaded",
            "Workers that answer from a release.",
            ["model_version"],
            multiprocess_mode="livesum",
            registry=own,
        )

    @property
    def registry(self) -> CollectorRegistry:
        """Where others add what they count."""
        return self._registry

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_run(self, run: Run, answers: Sequence[Recommendation]) -> None:
        """Count the stages of a pass, and what its answers did without."""
        for stage, seconds in list(run.seconds.items()):  # a late run may go on
            self._stages.labels(stage).observe(seconds)
        for answer in answers:
            for stage in answer.degraded:
                self._degraded.labels(stage).inc()

    def count_cached(self) -> None:
        """Count an answer that was given again."""
        self._cached.inc()

    def count_feedback(self, **outcomes: int) -> None:
        """Count events that were accepted, duplicates or rejected."""
        for outcome, number in outcomes.items():
            self._feedback.labels(outcome).inc(number)

    def count_exposures(self, logged: int, lost: int) -> None:
        """Count answers of experiments that were logged, and that could not be."""
        for outcome, number in (("logged", logged), ("lost", lost)):
            self._exposures.labels(outcome).inc(number)

    def count_exploration(self, **outcomes: int) -> None:
        """Count lists that were shown or lost, and events that were rewarded or repeated."""
        for outcome, number in outcomes.items():
            self._exploration.labels(outcome).inc(number)

    def set_exploration_age(self, seconds: float) -> None:
        """Say how old what is known of the arms is."""
        self._exploration_age.set(seconds)

    def set_folding_age(self, seconds: float) -> None:
        """Say how old the users' rows may be."""
        self._folding_age.set(seconds)

    def set_waiting(self, number: int) -> None:
        """Say how many requests are in progress."""
        self._waiting.set(number)

    def set_release(self, old: str | None, new: str | None) -> None:
        """Say which release is answered from."""
        for version, value in ((old, 0), (new, 1)):
            if version is not None:
                self._release.labels(version).set(value)

    def text(self) -> bytes:
        """Everything counted, by all workers where there are several."""
        folder = os.environ.get(METRICS_VARIABLE)
        if not folder:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget_dead_workers(folder: Path) -> None:
    """Remove the gauges of workers that ended; what they counted stays."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), path=str(folder))  # type: ignore[no-untyped-call]
