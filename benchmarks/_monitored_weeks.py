"""A real shop's visits as if they had been served, week by week after releases that never were.

Every four weeks a snapshot is taken as an export takes it; then each of the four weeks after it is
judged. Nobody planted anything there, so that an alarm is a false one, or a season's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.dataset import Dataset
from serving.monitor.config import MonitorConfig
from serving.monitor.drift import drifts
from serving.monitor.rows import latest
from trainer.sets import SERVICE, TrainingSet
from trainer.snapshot import visits_before

LAG = timedelta(days=28)
WEEK = timedelta(days=7)
LEAST_USERS = 100
"""Of a snapshot; before the first that has them there was no shop."""


def week_rows(folder: Path, cutoff: str = "t2") -> list[dict[str, Any]]:
    """One row a release and week: which features raise an alarm.

    Args:
        folder: of the data set.
        cutoff: of its set of visits.
    """
    dataset = Dataset.load(folder / "dataset.json")
    visits = TrainingSet.open(dataset, SERVICE, "sessions", cutoff)
    rows = pa.concat_tables(visits.chunks(visits.users.schema_arrow.names))
    rows = rows.sort_by("event_timestamp")
    first = rows.column("event_timestamp")[0].as_py() + LAG + 2 * WEEK
    return list(_weeks(visits, rows, first, dataset.edge(cutoff)))


def _weeks(
    visits: TrainingSet, rows: pa.Table, first: datetime, end: datetime
) -> Iterator[dict[str, Any]]:
    time, config = pc.field("event_timestamp"), MonitorConfig()
    for number in range(int((end - first) / LAG), 0, -1):
        at = end - number * LAG
        reference = visits_before(visits, at)
        if len(reference.rows) < LEAST_USERS:
            continue
        snapshot = reference.snapshot(visits.schema)
        for week in range(4):
            start = at + week * WEEK
            inside = (time >= pa.scalar(start)) & (time < pa.scalar(start + WEEK))
            served = latest(rows.filter(inside))
            counted = snapshot.count(served, visits.schema)
            found = drifts(snapshot.features, counted, config, 7.0 * week)
            yield {
                "release": f"{at:%Y-%m-%d}",
                "week": week + 1,
                "users": len(served),
                "alarms": ", ".join(one.name for one in found if one.alarm) or "none",
            }
