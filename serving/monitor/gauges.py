"""What the monitor found last, as gauges in ``/metrics``."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

MODE: Final = "livemax"
"""Of several workers one looks, and its numbers go when it does."""


class MonitorGauges:
    """Set from a report's JSON."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._looks = Counter(
            "shoprec_monitor_looks",
            "Looks of the monitor, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._rows = Counter(
            "shoprec_served_rows",
            "Rows of users that were to be logged, by whether they were or were lost.",
            ["outcome"],
            registry=registry,
        )
        self._time = self._gauge("shoprec_monitor_time_seconds", "When the monitor looked last.")
        self._alarm = self._gauge("shoprec_alarm", "1 while it is up.", "kind", "name")
        self._index = self._gauge(
            "shoprec_drift_index", "Population stability index.", "kind", "name"
        )
        self._online = self._gauge(
            "shoprec_online_quality", "Of the recent window, and before.", "metric", "time"
        )
        self._up: set[tuple[str, str]] = set()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, multiprocess_mode=MODE, registry=self._registry)

    def count(self, outcome: str) -> None:
        """Count a look that was ``ok``, or ``failed``."""
        self._looks.labels(outcome).inc()

    def count_rows(self, logged: int, lost: int) -> None:
        """Count served rows that were logged, and that could not be."""
        for outcome, number in (("logged", logged), ("lost", lost)):
            self._rows.labels(outcome).inc(number)

    def show(self, report: dict[str, Any], now_s: float) -> None:
        """Set everything; an alarm that is over goes to 0.

        Args:
            report: as JSON has it.
            now_s: epoch seconds.
        """
        self._time.set(now_s)
        up = {(one["kind"], one["name"]) for one in report["alarms"]}
        for kind, name in up | self._up:
            self._alarm.labels(kind, name).set((kind, name) in up)
        self._up |= up
        for kind, key in (("feature", "features"), ("prediction", "predictions")):
            for one in report[key]:
                self._index.labels(kind, one["name"]).set(one["index"])
        for one in report["outcomes"]:
            for time in ("now", "before"):
                if one["change"][time] is not None:
                    self._online.labels(one["name"], time).set(one["change"][time])
