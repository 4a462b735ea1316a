from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_repo.jobs import user_seen
from feature_repo.jobs.state import write_user_state
from tests.feature_repo.jobs.shops import database, day, purchase, write_shop


def seen_at_the_end(tmp_path: Path, items: list[tuple[int, int]]) -> list[int]:
    """What a user has seen who bought items (item, day)."""
    dataset = write_shop(tmp_path, [purchase(1, item, day(when)) for item, when in items])
    with database() as connection:
        write_user_state(connection, dataset, [*dataset.edges, dataset.end])
    rows = pq.read_table(dataset.features / "user_seen.parquet").to_pylist()
    last = max(rows, key=lambda row: row["event_timestamp"])
    seen: list[int] = last["seen_item_id"]
    return seen


def test_seen_items_are_distinct_and_the_most_recent_come_first(tmp_path: Path) -> None:
    assert seen_at_the_end(tmp_path, [(30, 0), (10, 1), (20, 2), (10, 3)]) == [10, 20, 30]


def test_more_items_are_remembered_than_the_history_keeps(tmp_path: Path) -> None:
    items = [(100 + number, number % 40) for number in range(300)]

    assert sorted(seen_at_the_end(tmp_path, items)) == [100 + number for number in range(300)]


def test_the_oldest_items_are_forgotten_past_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_seen, "SEEN_ITEMS", 2)

    assert seen_at_the_end(tmp_path, [(30, 0), (10, 1), (20, 2)]) == [20, 10]


def test_a_row_holds_nothing_from_its_edge_on(tmp_path: Path) -> None:
    dataset = write_shop(tmp_path, [purchase(1, item, day(7 * item)) for item in range(8)])
    edge = dataset.edges[1]
    with database() as connection:
        write_user_state(connection, dataset, [*dataset.edges, dataset.end])

    rows = pq.read_table(dataset.features / "user_seen.parquet").to_pylist()

    last_before = max(
        (row for row in rows if row["event_timestamp"] < edge), key=lambda r: r["event_timestamp"]
    )
    assert sorted(last_before["seen_item_id"]) == [i for i in range(8) if day(7 * i) < edge]
