"""A shop's logs and a release without models, as a monitor reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.contract.artifacts import write_manifest, write_table
from feature_repo.contract.dataset import IdType
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from feature_repo.contract.served_rows import write_served_rows
from feature_repo.contract.snapshot import FILE, Snapshot
from serving.monitor.rows import ROWS, STAMP

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)
PROJECT = "shop"
ITEMS = 40
SCHEMA = Schema(
    "ranking_v1",
    (
        Feature("spend", Entity.USER, "v", "Float32", Encoding.NUMERIC, buckets=8),
        Feature("segment", Entity.USER, "v", "String", Encoding.CATEGORICAL, buckets=8),
        Feature("price", Entity.ITEM, "i", "Float32", Encoding.NUMERIC, buckets=8),
    ),
)


def user_rows(seed: int, users: int, shift: float = 0.0) -> pa.Table:
    """Return rows of users from 1 on."""
    random = np.random.default_rng(seed)
    texts = np.array(["a", "b", "c"])[random.choice(3, users, p=[0.6, 0.3, 0.1])]
    return pa.table(
        {
            "user_id": np.arange(1, users + 1),
            "event_timestamp": pa.array([NOW] * users, pa.timestamp("us", tz="UTC")),
            "spend": pa.array(random.normal(size=users) + shift, pa.float32()),
            "segment": texts,
        }
    )


@dataclass
class Shop:
    """A release and the folder of its logs."""

    folder: Path

    @property
    def release(self) -> Path:
        """The release's folder."""
        return self.folder / "release"

    @property
    def feedback(self) -> Path:
        """Folder of the logs."""
        return self.folder / "feedback"

    def export(self, *, snapshot: bool = True) -> Shop:
        """Write the release."""
        rows = np.arange(ITEMS)
        day = int(NOW.timestamp()) - 86_400 * 10
        items = {
            "item_id": 500 + rows,
            "buyers_total": ITEMS - rows,
            "first_sold_s": np.where(rows % 4 == 0, day, 0),
            "brand": [f"B{row % 5}" for row in rows],
        }
        self.release.mkdir(parents=True)
        write_table(self.release / "items.parquet", pa.table(items))
        write_table(self.release / "users.parquet", pa.table({"user_id": np.arange(1, 301)}))
        SCHEMA.save(self.release / "schema.json")
        if snapshot:
            Snapshot.of(user_rows(0, 2000), SCHEMA, "users at the cut-off").save(
                self.release / FILE
            )
        about: dict[str, Any] = {
            "version": "shop-1",
            "dataset": PROJECT,
            "project": PROJECT,
            "cutoff": NOW.isoformat(),
            "clock": "wall",
            "as_of": NOW.isoformat(),
            "user_id": "int64",
            "item_id": "int64",
            "rankers": ["default"],
            "git": None,
            "fingerprints": {},
        }
        write_manifest(self.release, "release", about)
        return self

    def serve_rows(self, rows: pa.Table, at: datetime = NOW - timedelta(days=1)) -> None:
        """Log served rows."""
        name = f"{PROJECT}-{at:{STAMP}}-1-{SCHEMA.fingerprint}.parquet"
        (self.feedback / ROWS).mkdir(parents=True, exist_ok=True)
        write_served_rows(self.feedback / ROWS / name, rows, SCHEMA, IdType.INT64)

    def show(self, users: int = 400, weeks: int = 6, fall: float = 0.0, places: int = 5) -> None:
        """Log answers of some weeks, and clicks on a fifth of their places; of late fewer."""
        random = np.random.default_rng(1)
        exposures: dict[str, list[Any]] = {}
        events: list[Any] = []
        for week in range(weeks):
            rate = 0.2 * (1 - fall * (week == 0))
            for user in range(1, users + 1):
                at = NOW - timedelta(days=7 * week + 1 + 5 * random.random())
                name = f"r{week}-{user}"
                shown = (500 + random.choice(ITEMS, places, replace=False)).tolist()
                scores = (1.0 - np.arange(places) / 10).tolist()
                day = f"{at:%Y-%m-%d}"
                exposures.setdefault(day, []).append(exposure(name, user, at, shown, scores))
                events += [
                    event(name, user, at + timedelta(minutes=3), item)
                    for item in shown
                    if random.random() < rate
                ]
        (self.feedback / "exposures").mkdir(parents=True, exist_ok=True)
        for day, lines in exposures.items():
            write_lines(self.feedback / "exposures" / f"{PROJECT}-{day}.jsonl", lines)
        write_lines(self.feedback / f"{PROJECT}.jsonl", events)


def exposure(
    name: str, user: int, at: datetime, items: list[int], scores: list[float], **more: Any
) -> dict[str, Any]:
    """Return one line of the log of exposures."""
    return {
        "recommendation_id": name,
        "user_id": user,
        "time": at.isoformat(),
        "item_ids": items,
        "scores": scores,
        "model_version": "shop-1",
        "override": False,
        **more,
    }


def event(name: str, user: int, at: datetime, item: int, kind: str = "click") -> dict[str, Any]:
    """Return one line of the feedback log."""
    return {
        "event_id": f"{name}-{item}-{kind}",
        "event_type": kind,
        "user_id": user,
        "item_id": item,
        "recommendation_id": name,
        "event_timestamp": at.isoformat(),
        "received_at": at.isoformat(),
    }


def write_lines(path: Path, lines: list[Any]) -> None:
    """Write a log."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
