"""Files of experiments and lines of logs, as tests write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from serving.experiments.config import Experiment, parse_experiment

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def settings(**changes: Any) -> dict[str, Any]:
    """Return what a file holds: a control and a plain variant, unless changed."""
    return {"start": START, "end": END, "variants": {"control": None, "other": None}, **changes}


def experiment(name: str = "lists", **changes: Any) -> Experiment:
    """Return an experiment."""
    return parse_experiment(settings(**changes), Path(f"{name}.yaml"))


def write(folder: Path, name: str = "lists", **changes: Any) -> Path:
    """Write an experiment's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings(**changes), sort_keys=False), encoding="utf-8")
    return path


def exposure(user_id: int, variant: str, day: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Return a line of the log of exposures, some days after the start."""
    at = START + timedelta(days=day)
    return {
        "experiment": "lists",
        "variant": variant,
        "revision": experiment().revision,
        "recommendation_id": f"r{user_id}-{day}",
        "user_id": user_id,
        "time": at.isoformat(),
        "item_ids": [1, 2, 3, 4],
        "positions": [1, 2, 3, 4],
        "took_ms": 10.0,
        "degraded": [],
        "cached": False,
        "model_version": "1",
        "override": False,
        **changes,
    }


def event(user_id: int, event_type: str, day: float, **changes: Any) -> dict[str, Any]:
    """Return a line of the feedback log, some days after the start."""
    at = (START + timedelta(days=day)).isoformat()
    return {
        "event_id": f"{event_type}-{user_id}-{day}",
        "user_id": user_id,
        "item_id": 1,
        "event_type": event_type,
        "event_timestamp": at,
        "received_at": at,
        "recommendation_id": None,
        "session_id": None,
        "quantity": 1,
        "price": 2.0,
        **changes,
    }
