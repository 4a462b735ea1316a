"""What users did between a cut-off and the end of its label window, as columns of lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from feature_repo.contract.events import (
    EXPOSED_ITEM,
    EXPOSED_POSITION,
    EXPOSED_PROPENSITY,
    TARGET_EVENTS,
    EventType,
    target_column,
)
from feature_repo.jobs.canonical import OPTIONAL_EVENTS
from feature_repo.jobs.database import parquet, rows, text


@dataclass(frozen=True)
class LabelWindow:
    """The lists of a window of time."""

    columns: tuple[str, ...]
    query: str
    """Of ``user_id`` and the columns: one row a user with an event in the window."""

    @staticmethod
    def of(
        connection: duckdb.DuckDBPyConnection, events: Path, since: datetime, until: datetime
    ) -> LabelWindow:
        """The window from ``since`` on, to before ``until``.

        What was bought is always a column. Other kinds of event, and what was shown, are columns
        where the shop had such events by ``until``.
        """
        table = parquet(events)
        known = {line[0] for line in rows(connection, f"DESCRIBE FROM {table}")}
        before = f"event_timestamp < {text(until)}"
        found = rows(connection, f"SELECT DISTINCT event_type FROM {table} WHERE {before}")
        columns = _columns({EventType(kind) for (kind,) in found} | {EventType.PURCHASE})
        values = ", ".join(
            f"min({name if name in known else 'NULL'})::{kind} AS {name}"
            for name, kind in OPTIONAL_EVENTS.items()
        )
        distinct = (
            f"SELECT user_id, item_id, event_type, {values} FROM {table} "
            f"WHERE event_timestamp >= {text(since)} AND {before} GROUP BY ALL"
        )
        lists = ", ".join(f"{query} AS {name}" for name, query in columns.items())
        query = f"SELECT user_id, {lists} FROM ({distinct}) GROUP BY user_id"
        return LabelWindow(tuple(columns), query)


def _columns(kinds: set[EventType]) -> dict[str, str]:
    """Column -> the query of its list."""
    columns = {
        target_column(kind): _list("item_id", kind) for kind in TARGET_EVENTS if kind in kinds
    }
    if EventType.IMPRESSION in kinds:
        shown = {EXPOSED_ITEM: "item_id", EXPOSED_POSITION: "position"}
        shown[EXPOSED_PROPENSITY] = "propensity"
        columns |= {name: _list(value, EventType.IMPRESSION) for name, value in shown.items()}
    return columns


def _list(value: str, kind: EventType) -> str:
    return f"list({value} ORDER BY item_id) FILTER (WHERE event_type = {text(kind.value)})"
