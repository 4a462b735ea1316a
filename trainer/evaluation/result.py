"""What an evaluation found: the content of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError
from ranking.metrics import Estimate

FORMAT = 1

METRICS = {
    "ndcg": "NDCG@{k}",
    "precision": "P@{k}",
    "recall": "R@{k}",
    "mrr": "MRR@{k}",
    "hit_rate": "hit@{k}",
    "serendipity": "serendipity",
    "novelty": "novelty",
    "diversity": "diversity",
}
"""Metrics that have a value for each user -> their names in a table."""


@dataclass(frozen=True)
class MethodResult:
    """How the lists of one method did in one task."""

    name: str
    label: str
    is_system: bool
    """Whether it is the system that was to be judged, rather than a baseline."""
    metrics: dict[str, Estimate]
    """Metric -> mean over users and its 95% interval; one that cannot be computed is absent."""
    coverage: float
    """Share of the items known before the window that stand in some list."""


@dataclass(frozen=True)
class Segment:
    """NDCG among users of like activity."""

    label: str
    users: int
    ndcg: dict[str, float]
    """Method -> mean."""


@dataclass(frozen=True)
class GroupExposure:
    """How much of the lists a group of items has."""

    label: str
    items: float
    """Share of the items known before the window that are of the group."""
    wanted: float
    """Of all relevant items of all users, the share that is."""
    places: dict[str, float]
    """Method -> share of the places of its lists."""


@dataclass(frozen=True)
class TaskResult:
    """One task's table."""

    users: int
    """Users with a relevant item; all means are over them."""
    without_list: int
    """Of those, users for whom the system has no list: they count zero."""
    methods: list[MethodResult]
    best_baseline: str
    """The baseline with the highest NDCG."""
    difference: dict[str, Estimate]
    """Metric -> system minus best baseline, user by user; empty without a system."""
    segments: list[Segment]
    groups: list[GroupExposure] = field(default_factory=list)

    def method(self, name: str) -> MethodResult:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def system(self) -> MethodResult | None:
        """The judged system; None where the baselines stand alone."""
        return next((method for method in self.methods if method.is_system), None)


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found."""

    dataset: str
    split: str
    cutoff: str
    """ISO time; lists know what happened before."""
    until: str
    """ISO time; end of the window."""
    k: int
    samples: int
    """Bootstrap samples of every interval."""
    command: str
    """What was run."""
    inputs: dict[str, str]
    """Setting -> SHA-256 of the file of lists that it named."""
    tasks: dict[str, TaskResult] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @staticmethod
    def load(path: Path) -> Evaluation:
        """Read a saved evaluation.

        Raises:
            ArtifactError: missing, truncated, or of another format.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ArtifactError(f"{path} is not an evaluation of format {FORMAT}; evaluate again.")
        try:
            tasks = {name: _task(task) for name, task in value.pop("tasks").items()}
            return Evaluation(**value, tasks=tasks)
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path} does not describe an evaluation: {error!r}") from error


def _task(value: dict[str, Any]) -> TaskResult:
    methods = [
        MethodResult(**{**method, "metrics": _estimates(method["metrics"])})
        for method in value["methods"]
    ]
    segments = [Segment(**segment) for segment in value["segments"]]
    groups = [GroupExposure(**group) for group in value.get("groups", ())]
    difference = _estimates(value["difference"])
    parts = {"methods": methods, "segments": segments, "groups": groups, "difference": difference}
    return TaskResult(**{**value, **parts})


def _estimates(value: dict[str, Any]) -> dict[str, Estimate]:
    """Metrics in the order of a table: JSON files sort their keys."""
    return {name: Estimate(**value[name]) for name in in_order(value)}


def in_order(names: Iterable[str]) -> list[str]:
    """Some metrics in the order of a table."""
    present = set(names)
    return [name for name in METRICS if name in present]
