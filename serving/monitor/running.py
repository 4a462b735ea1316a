"""The monitor's part of a running server: what it logs, and the timer."""

from __future__ import annotations

from dataclasses import dataclass

from feature_repo.contract.dataset import IdType
from feature_repo.contract.schema import Schema
from serving.metrics import Metrics
from serving.monitor.gauges import MonitorGauges
from serving.monitor.rows import ROWS, RowLog, sampled
from serving.monitor.timer import MonitorTimer
from serving.online import UserFeatures
from serving.settings import Settings


@dataclass(frozen=True)
class Monitoring:
    """Logs a share of the served rows, and looks after drift now and then."""

    rows: RowLog
    timer: MonitorTimer
    share: float
    """Of the requests, whose users' rows are logged."""

    @staticmethod
    def of(settings: Settings, metrics: Metrics) -> Monitoring:
        """As the settings say; starts nothing."""
        gauges = MonitorGauges(metrics.registry)
        rows = RowLog(settings.feedback / ROWS, settings.project, gauges.count_rows)
        return Monitoring(rows, MonitorTimer(settings, gauges), settings.log_rows)

    def store(self, store: UserFeatures, schema: Schema, user_id: IdType) -> UserFeatures:
        """The online store, of whose answers a share is logged."""
        return sampled(store, self.rows, schema, user_id, self.share)

    def start(self) -> None:
        """Look now and then, where a time is set."""
        self.timer.start()

    def end(self) -> None:
        """Look no more, and write what waits."""
        self.timer.end()
        self.rows.close()
