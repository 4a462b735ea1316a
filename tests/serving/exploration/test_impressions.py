"""The exposure log as events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from serving.exploration.impressions import main


def line(name: str, **more: Any) -> dict[str, Any]:
    return {
        "recommendation_id": name,
        "user_id": 7,
        "time": "2026-01-02T03:04:05.678+00:00",
        "item_ids": ["a", "b"],
        "positions": [1, 2],
        **more,
    }


def write(folder: Path, *lines: dict[str, Any]) -> None:
    text = "".join(f"{json.dumps(one)}\n" for one in lines)
    (folder / "shop-2026-01-02.jsonl").write_text(text + '{"half"', encoding="utf-8")


def test_every_item_of_a_list_that_explored_is_an_impression(tmp_path: Path) -> None:
    explored = line("r1", propensities=[1.0, 0.25])
    write(tmp_path, {"experiment": "a", **explored}, {"experiment": "b", **explored}, line("r2"))

    code = main(["--exposures", str(tmp_path), "--out", str(tmp_path / "shown.parquet")])

    rows = pq.read_table(tmp_path / "shown.parquet").to_pylist()
    assert code == 0
    assert [(row["item_id"], row["position"], row["propensity"]) for row in rows] == [
        ("a", 1, 1.0),
        ("b", 2, 0.25),
    ]
    assert {row["event_type"] for row in rows} == {"impression"}
    assert rows[0]["event_timestamp"].isoformat() == "2026-01-02T03:04:05.678000+00:00"


def test_a_log_without_exploration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, line("r1"))

    assert main(["--exposures", str(tmp_path), "--out", str(tmp_path / "shown.parquet")]) == 2

    assert "has no list that explored" in capsys.readouterr().err
    assert not (tmp_path / "shown.parquet").exists()
