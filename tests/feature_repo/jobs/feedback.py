"""A shop whose servers take feedback, with its stores, for tests of folding and compaction."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis

from feature_repo.contract.dataset import Dataset, IdType
from feature_repo.contract.event_log import locked
from feature_repo.contract.event_stream import EventStream
from feature_repo.contract.folding import Folder, Forwarder
from feature_repo.contract.journal import Rules
from feature_repo.contract.online_state import UserStates
from feature_repo.jobs.compact import compact
from feature_repo.jobs.config import CompactConfig, JobConfig, load_config
from feature_repo.jobs.feast_repo import open_store
from feature_repo.jobs.state import make_state

Line = dict[str, Any]
NOW = datetime(2020, 6, 1, tzinfo=UTC)


def line(event_id: str, user: int | str, item: int | str, at: datetime, **values: Any) -> Line:
    """One line of the log, as a server writes it."""
    found: Line = {"event_id": event_id, "user_id": user, "item_id": item, "event_type": "purchase"}
    found |= {"event_timestamp": at.isoformat(), "recommendation_id": None, "session_id": None}
    return {**found, "position": None, "quantity": 1, "price": None} | values


def append(path: Path, lines: Iterable[Line], received_at: datetime = NOW) -> None:
    """Write lines, synced, as a server does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = [{**one, "received_at": received_at.isoformat()} for one in lines]
    with locked(path) as file:
        file.write("".join(json.dumps(one) + "\n" for one in stamped).encode())
        os.fsync(file.fileno())


@dataclass
class FeedbackShop:
    """A shop, the folder of its feedback log, and its online store."""

    root: Path
    client: Redis
    name: str = "small_shop"
    folders: tuple[str, ...] = ("feedback",)

    @property
    def settings(self) -> list[str]:
        """Overrides of the jobs."""
        folders = ",".join(str(self.root / folder) for folder in self.folders)
        return [
            *("data=parquet", f"data.name={self.name}", f"data.root={self.root}"),
            *(f"+feedback=[{folders}]", "threads=1"),
        ]

    @property
    def dataset(self) -> Dataset:
        """The data set as it is now."""
        return Dataset.load(self.root / "dataset.json")

    @property
    def log(self) -> Path:
        """The feedback log."""
        return self.root / self.folders[0] / f"{self.name}.jsonl"

    @property
    def stream(self) -> EventStream:
        """The stream."""
        return EventStream(self.client, self.name)

    def config(self) -> CompactConfig:
        """Settings of the compaction."""
        settings = [one.removeprefix("+") for one in self.settings]
        return load_config(CompactConfig, [*settings, *self.more()])

    def more(self) -> list[str]:
        """Settings that say how the state is made."""
        about = self.dataset if (self.root / "dataset.json").exists() else None
        if about is None:
            return []
        return [
            f"data.history_items={about.history_items}",
            f"data.half_life_days={about.half_life_days}",
        ]

    def compact(self) -> int:
        """Run the compaction."""
        return compact(self.config(), NOW, self.stream)

    def state(self) -> None:
        """Compute the state in bulk."""
        settings = [one for one in self.settings if not one.startswith("+")]
        make_state(load_config(JobConfig, [*settings, *self.more()]))

    def materialise(self) -> None:
        """Fill the online store with the bulk state."""
        start, end = datetime(2019, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
        open_store(self.dataset).materialize(start, end, list(USER_VIEWS))

    def users(self, client: Redis | None = None) -> UserStates:
        """The rows of users."""
        return UserStates(client or self.client, self.name, IdType.INT64)

    def rules(self) -> Rules:
        """How the state is made."""
        return Rules(self.dataset.history_items, self.dataset.half_life_days)

    def folder(self, name: str = "here", **values: Any) -> Folder:
        """What folds the stream."""
        return Folder(self.stream, self.users(), self.rules(), name, **values)

    def forwarder(self, folder: str = "feedback") -> Forwarder:
        """What passes a log on."""
        return Forwarder(self.root / folder / f"{self.name}.jsonl", self.stream)

    def fold(self) -> None:
        """Pass everything on and fold it."""
        run(self.forwarder(), self.folder())


USER_VIEWS = ("user_history", "user_activity", "user_seen")


def run(*steps: Forwarder | Folder) -> None:
    """Step until nothing is left to do."""
    while sum(step.step() for step in steps):
        pass


def same_rows(
    mine: UserStates, theirs: UserStates, ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Users whose stored bytes are equal, and those that differ in the rounding of sums alone."""
    import pytest

    equal, rounded = [], []
    names = mine._names
    for user in ids:
        one, two = (s.client.hmget(s.key(user), s._fields) for s in (mine, theirs))
        first, second = one[len(mine._guards) :], two[len(mine._guards) :]
        if first == second:
            equal.append(user)
            continue
        rounded.append(user)
        from feature_repo.contract.values import decode_value

        for (view, name), a, b in zip(names, first, second, strict=True):
            if a == b:
                continue
            assert mine._types[view][name] in ("Float32", "Array(Float32)"), (user, name)
            assert decode_value(a) == pytest.approx(decode_value(b), rel=2e-6), (user, name)
    return equal, rounded
