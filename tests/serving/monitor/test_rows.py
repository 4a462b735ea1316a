from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.contract.columns import Rows
from feature_repo.contract.dataset import IdType
from feature_repo.contract.online import UserRows
from serving.ids import Id
from serving.monitor.config import MonitorConfig
from serving.monitor.rows import KEPT_DAYS, RowLog, Sampled, latest, read_rows, row_files, sampled
from tests.serving.monitor.files import NOW, PROJECT, SCHEMA, user_rows


class Counts:
    """What the log counted."""

    def __init__(self) -> None:
        self.logged = self.lost = 0

    def __call__(self, logged: int, lost: int) -> None:
        self.logged += logged
        self.lost += lost


class Store:
    """Answers with made-up rows."""

    def read(self, user_ids: Sequence[Id], now: datetime) -> UserRows:
        return UserRows(Rows(user_rows(0, len(user_ids))), [True] * len(user_ids))


def rows_of(folder: Path) -> list[pa.Table]:
    windows = MonitorConfig(wait_hours=0).windows(NOW + timedelta(minutes=1))
    return read_rows(folder, PROJECT, windows, SCHEMA, IdType.INT64)[0]


def log(folder: Path, counts: Counts, **changes: object) -> RowLog:
    return RowLog(folder, PROJECT, counts, now=lambda: NOW, **changes)  # type: ignore[arg-type]


def test_a_share_of_the_requests_is_logged_in_the_format_of_served_rows(tmp_path: Path) -> None:
    rows, draws = log(tmp_path, counts := Counts()), iter([0.005, 0.5, 0.009, 0.02])
    store = Sampled(Store(), rows, SCHEMA, IdType.INT64, 0.01, lambda: next(draws))

    answer = store.read([1, 2, 3, 4], NOW)
    rows.close()

    recent, before = rows_of(tmp_path)
    assert len(answer.table) == 4
    assert recent.column("user_id").to_pylist() == [1, 3]
    assert recent.column("spend").equals(answer.table.column("spend").take(pa.array([0, 2])))
    assert len(before) == 0
    assert (counts.logged, counts.lost) == (2, 0)


def test_without_a_share_the_store_is_left_alone(tmp_path: Path) -> None:
    store = Store()

    assert sampled(store, log(tmp_path, Counts()), SCHEMA, IdType.INT64, 0.0) is store


def test_more_rows_than_may_wait_are_lost_and_counted(tmp_path: Path) -> None:
    rows = log(tmp_path, counts := Counts(), most_waiting=3)
    store = sampled(Store(), rows, SCHEMA, IdType.INT64, 1.0)
    for _ in range(3):
        store.read([1, 2], NOW)
    rows.close()

    assert (counts.logged, counts.lost) == (2, 4)


def test_a_disk_that_fails_loses_rows_and_tells_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    rows = log(tmp_path / "file", counts := Counts())
    for _ in range(2):
        rows.add(SCHEMA, IdType.INT64, Store().read([1], NOW), [0])
        rows.flush()
    rows.close()

    assert (counts.logged, counts.lost) == (0, 2)
    assert caplog.text.count("cannot be written") == 1


def test_old_files_are_removed_and_other_shops_are_let_be(tmp_path: Path) -> None:
    old = NOW - timedelta(days=KEPT_DAYS + 1)
    mine, others = tmp_path / f"{PROJECT}-{old:%Y%m%dT%H%M%S%f}-1-x.parquet", tmp_path / "b.parquet"
    for path in (mine, others):
        path.write_bytes(b"")
    rows = log(tmp_path, Counts())
    rows.add(SCHEMA, IdType.INT64, Store().read([1], NOW), [0])
    rows.close()

    assert others.exists()
    assert not mine.exists()
    assert len(list(row_files(tmp_path, PROJECT))) == 1


def test_of_each_user_the_latest_row_counts() -> None:
    rows = pa.table({"user_id": [1, 2, 1], "spend": [1.0, 2.0, 3.0]})

    assert latest(rows).to_pydict() == {"user_id": [2, 1], "spend": [2.0, 3.0]}
