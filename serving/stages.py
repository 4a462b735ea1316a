"""The stages of an answer: one that fails or would come too late is done without, and named.

A stage cannot be stopped once it runs, so each has a share of the deadline by which it must have
begun; what waits for others (the online store) has a timeout of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from feature_repo.contract.errors import StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

FEATURES, USER_TOWER, RETRIEVAL = "features", "user_tower", "retrieval"
RANKING, POLICY, EXPLAIN = "ranking", "policy", "explain"
SHARES = {FEATURES: 0.5, USER_TOWER: 0.8, RANKING: 0.9, POLICY: 1.0, EXPLAIN: 0.6}
"""Share of the deadline by which a stage must have begun; explaining takes as long as answering."""
STORE_SHARE = 0.3
"""Share of the deadline that is waited for the online store."""
SOURCE_SHARE = 0.85
"""Of each candidate source, which is a stage under its own name."""
LOG_PAUSE_S = 60.0
"""A stage that fails again within this time is not logged again."""


@dataclass(frozen=True)
class Deadline:
    """When an answer has to be there."""

    started: float
    """Monotonic seconds."""
    total_s: float
    clock: Callable[[], float] = time.monotonic

    @staticmethod
    def after(total_s: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline that begins now."""
        return Deadline(clock(), total_s, clock)

    def passed(self, share: float = 1.0) -> bool:
        """Whether a share of the time is over."""
        return self.clock() >= self.started + share * self.total_s


NEVER = Deadline(0.0, float("inf"))


@dataclass
class Run:
    """One pass through the stages, of one request or of several together."""

    deadline: Deadline = NEVER
    strict: bool = False
    """A stage that fails raises, as when a release is verified."""
    degraded: list[str] = field(default_factory=list)
    """Stages that were done without."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> time that it took."""
    stage: str = "queue"
    """The one that runs now."""

    def attempt(self, stage: str, work: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What ``work`` returns, or ``otherwise`` where it is too late for it or it fails."""
        if self.deadline.passed(SHARES.get(stage, SOURCE_SHARE)):
            return self._without(stage, otherwise)
        self.stage, started = stage, time.perf_counter()
        try:
            return work()
        except StoreUnavailable:  # the store's own module tells of it
            return self._without(stage, otherwise)
        except Exception:
            if self.strict:
                raise
            _FAILURES.tell(stage)
            return self._without(stage, otherwise)
        finally:
            self.seconds[stage] = time.perf_counter() - started

    def name(self, stage: str) -> None:
        """Say that a stage was done without."""
        if stage not in self.degraded:
            self.degraded.append(stage)

    def _without(self, stage: str, otherwise: Callable[[], T]) -> T:
        self.name(stage)
        return otherwise()


class _Failures:
    """Logs the failures of stages, each stage now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def tell(self, stage: str) -> None:
        """Log the exception that is being handled, unless the stage's last one was just logged."""
        with self._lock:
            now = time.monotonic()
            if now - self._told.get(stage, float("-inf")) < LOG_PAUSE_S:
                self._silent[stage] = self._silent.get(stage, 0) + 1
                return
            self._told[stage] = now
            silent = self._silent.pop(stage, 0)
        log.exception(
            "The stage %r failed, and answers do without it; %d failures since the last one told.",
            stage,
            silent + 1,
        )


_FAILURES = _Failures()
