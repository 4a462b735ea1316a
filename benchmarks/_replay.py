"""A shop whose time goes by: its events reach to a moment, and then a week further.

The variant lies in a folder of its own. Its table of events is what ingest and compactions leave at
that moment; features, registry and training sets are made of it by the project's own commands.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract.artifacts import read_table, write_table
from feature_repo.contract.dataset import Dataset
from feature_repo.jobs.feast_repo import write_settings

WEEK = timedelta(days=7)
TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Replay:
    """A whole shop, and the same as far as it is known."""

    whole: Dataset
    root: Path

    @property
    def settings(self) -> tuple[str, ...]:
        """What names the variant on a command line."""
        return ("data=complete_journey", f"data.name={self.whole.name}", f"data.root={self.root}")

    @property
    def seen(self) -> Dataset:
        """The variant as it is now."""
        return Dataset.load(self.root / "dataset.json")

    def reach(self, end: datetime) -> None:
        """Have the variant's events reach to just before ``end``."""
        path = self.root / "dataset.json"
        if path.exists() and self.seen.end == end:
            return
        # Rankers of the first release learn from one or two windows.
        seen = replace(self.whole, root=self.root, end=end, earlier=())
        seen.canonical.mkdir(parents=True, exist_ok=True)
        for table in ("users", "items", "item_context"):
            source = self.whole.canonical / f"{table}.parquet"
            if source.exists() and not (seen.canonical / source.name).exists():
                shutil.copy(source, seen.canonical)
        events = read_table(self.whole.canonical / "events.parquet")
        before = pc.less(events.column("event_timestamp"), pa.scalar(end, TIME))
        write_table(seen.canonical / "events.parquet", events.filter(before))
        write_settings(seen)
        seen.save()


def weeks_from(start: datetime, count: int) -> list[tuple[datetime, datetime]]:
    """Starts and ends of weeks: the first begins at ``start``, the others on Mondays in UTC.

    Midnight in UTC, at which training continues, lies in the evening of the shop's Sundays.
    """
    monday = (start - timedelta(days=start.weekday())).replace(hour=0, minute=0, second=0)
    edges = [start, *(monday + WEEK * number for number in range(1, count + 1))]
    return list(pairwise(edges))
