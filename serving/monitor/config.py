"""What a monitor looks at, and from when on it raises an alarm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from feature_repo.contract.errors import require


@dataclass(frozen=True)
class MonitorConfig:
    """Times, limits, and how much is read."""

    recent_days: float = 7.0
    """Length of the recent window. Whole weeks: weekdays differ."""
    history_days: float = 56.0
    """Before it, with which it is compared; cut into blocks of the recent window's length. How much
    whole weeks differ from each other is told from these: four would say too little of it."""
    wait_hours: float = 2.0
    """Feedback counts that came in within this time of its answer; younger answers are left out,
    so that every answer had the same time."""
    level: float = 0.01
    """Share of rounds without any drift in which one family of tests raises an alarm."""
    least_distance: float = 0.02
    """Smaller differences of two distributions are told, and raise no alarm: among many users
    everything differs."""
    least_fall: float = 0.05
    """Smaller falls, as a share of the value before, raise no alarm."""
    most_rows: int = 20_000
    """Users whose served rows are compared; more are left out at random."""
    most_answers: int = 300_000
    """Answers that are read; where there are more, of fewer users, chosen by their ids' hash."""

    def __post_init__(self) -> None:
        for name in ("recent_days", "history_days", "most_rows", "most_answers"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above zero; got {value}.")
        for name in ("wait_hours", "least_distance", "least_fall"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be below zero; got {value}.")
        require(0 < self.level < 1, f"level must be between 0 and 1; got {self.level}.")
        require(
            self.history_days >= self.recent_days,
            f"history_days must be at least recent_days, {self.recent_days:g}; "
            f"got {self.history_days:g}.",
        )

    @property
    def num_blocks(self) -> int:
        """Whole blocks of history."""
        return int(self.history_days / self.recent_days + 1e-9)

    def windows(self, until: datetime, since: datetime | None = None) -> Windows:
        """The recent window that ends now, less the time that feedback has; and its history.

        Args:
            until: the wall clock.
            since: nothing before is looked at.
        """
        end = until - timedelta(hours=self.wait_hours)
        return Windows(end, timedelta(days=self.recent_days), self.num_blocks, since)


@dataclass(frozen=True)
class Windows:
    """The recent window, 0, and the blocks before it, from 1; each from its start to its end."""

    end: datetime
    length: timedelta
    blocks: int
    since: datetime | None = None

    @property
    def start(self) -> datetime:
        """Of the recent window."""
        return self.end - self.length

    @property
    def earliest(self) -> datetime:
        """Start of the history."""
        first = self.start - self.blocks * self.length
        return first if self.since is None else max(first, self.since)

    def of(self, at: float) -> int | None:
        """The window of a time in epoch seconds; None outside of all."""
        if not self.earliest.timestamp() <= at < self.end.timestamp():
            return None
        return int((self.end.timestamp() - at - 1e-9) // self.length.total_seconds())
