"""The log of exposures: which variant each answer of an experiment was made by, and what it held.

A request only puts its answer into a buffer. A thread writes what waits a few times a second and
syncs it, a file a day, shared by the workers of a server. The buffer is bounded: where the disk is
full or too slow, exposures are lost, and counted.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from serving.answers import Recommendation
from serving.background import Writer
from serving.experiments.treatment import Treatment
from serving.exploration.explored import padded
from serving.feedback import write_all
from serving.ids import Id

MOST_WAITING = 10_000
"""Answers that wait to be written."""
EVERY_S = 0.25
"""Time between two writes."""

Line = dict[str, Any]
"""One exposure as a JSON object of the log."""
Count = Callable[[int, int], None]
"""Is told how many answers were logged and how many were lost."""


@dataclass(frozen=True)
class Exposure:
    """One answer that belongs to experiments, or that explored."""

    user_id: Id
    treatment: Treatment | None
    answer: Recommendation
    at: datetime
    """By the wall clock."""

    def lines(self) -> list[Line]:
        """One for each experiment; one without a name of any, where there is none."""
        answer = self.answer
        about: Line = {
            "recommendation_id": answer.recommendation_id,
            "user_id": self.user_id,
            "time": self.at.isoformat(timespec="milliseconds"),
            "item_ids": [item.item_id for item in answer.items],
            "positions": [item.position for item in answer.items],
            "scores": [item.score for item in answer.items],
            "took_ms": answer.took_ms,
            "degraded": answer.degraded,
            "cached": answer.cached,
            "model_version": answer.model_version,
            "override": self.treatment is not None and self.treatment.override,
        }
        if answer.explored is not None:
            about["propensities"] = padded(answer.explored.propensities, len(answer.items))
            about["exploration"] = answer.explored.line()
        arms = () if self.treatment is None else self.treatment.arms
        return [{**arm.names, **about} for arm in arms] or [about]


class ExposureLog(Writer):
    """Writes exposures behind the requests; ``add`` never waits for the disk."""

    def __init__(
        self,
        folder: Path,
        project: str,
        count: Count = lambda logged, lost: None,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Write nothing yet, and start no thread.

        Args:
            folder: of the log's files, ``<project>-<day>.jsonl``.
            project: the shop's name.
            count: is told what became of answers.
            most_waiting: more answers than these are lost while they wait.
        """
        super().__init__("exposures", EVERY_S)
        self.folder, self.project = folder, project
        self._count, self._most = count, most_waiting
        self._waiting: deque[Exposure] = deque()

    def add(self, exposure: Exposure) -> None:
        """Have an exposure written soon; it is lost where too many wait."""
        if len(self._waiting) >= self._most:
            self._count(0, 1)
            return
        self._waiting.append(exposure)
        self._begin()

    def flush(self) -> None:
        """Write what waits; where that fails it goes on waiting."""
        with self._writing:
            taken: list[Exposure] = []
            while self._waiting:
                taken.append(self._waiting.popleft())
            if not taken:
                return
            try:
                self._write(taken)
            except OSError as error:
                self._tell(f"Exposures cannot be written to {self.folder}, and wait: {error}.")
                self._back(taken)
                return
        self._count(len(taken), 0)

    def close(self) -> None:
        """Write what waits, and take no more; what cannot be written is lost."""
        super().close()
        if self._waiting:
            self._count(0, len(self._waiting))
            self._waiting.clear()

    def _back(self, taken: list[Exposure]) -> None:
        """The latest go on waiting, as many as may."""
        room = max(0, self._most - len(self._waiting))
        lost = max(0, len(taken) - room)
        self._waiting.extendleft(reversed(taken[lost:]))
        self._count(0, lost)

    def _write(self, taken: list[Exposure]) -> None:
        by_day: dict[str, list[Line]] = {}
        for exposure in taken:
            by_day.setdefault(f"{exposure.at:%Y-%m-%d}", []).extend(exposure.lines())
        self.folder.mkdir(parents=True, exist_ok=True)
        for day, lines in by_day.items():
            append(self.folder / f"{self.project}-{day}.jsonl", lines)


def append(path: Path, lines: list[Line]) -> None:
    """Add lines to a file that other processes add to as well, and sync; all or none.

    Raises:
        OSError: they could not be written.
    """
    data = b"".join(to_json(line) + b"\n" for line in lines)
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = os.fstat(file.fileno()).st_size
        try:
            write_all(file, data)
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise
