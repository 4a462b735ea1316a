"""From lists to a table: metrics, intervals, the difference to the best baseline, segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking import metrics
from ranking.metrics import Estimate
from trainer.evaluation.result import METRICS, GroupExposure, MethodResult, Segment, TaskResult
from trainer.evaluation.window import Judged, Window

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXPECTED = ("recent_popular", "own_frequency")
"""Baselines whose items are no surprise to anybody; see ``ranking.metrics.serendipity_at_k``."""
NUM_SEGMENTS = 4


@dataclass(frozen=True)
class Judge:
    """Judges the lists of several methods on one window."""

    window: Window
    k: int
    samples: int
    seed: int

    def judge(
        self,
        judged: Judged,
        baselines: Mapping[str, Ints],
        labels: Mapping[str, str],
        system: tuple[str, Ints] | None = None,
    ) -> TaskResult:
        """Judge one task.

        Args:
            judged: the [B] users and their relevant items.
            baselines: method -> [B, k] item rows; those named in ``EXPECTED`` among them.
            labels: method -> what it is called in a table.
            system: name and [B, k] item rows of the system that is judged.
        """
        lists = dict(baselines) if system is None else {system[0]: system[1], **baselines}
        expected = np.concatenate([baselines[name] for name in EXPECTED], axis=1)
        values = {name: self._values(rows, judged, expected) for name, rows in lists.items()}
        best = max(baselines, key=lambda name: float(values[name]["ndcg"].mean()))
        return TaskResult(
            users=len(judged.users),
            without_list=0 if system is None else int((system[1] == 0).all(axis=1).sum()),
            methods=[
                MethodResult(
                    name,
                    labels.get(name, name),
                    system is not None and name == system[0],
                    self._estimates(values[name]),
                    metrics.catalogue_coverage(lists[name], len(self.window.items)),
                )
                for name in lists
            ],
            best_baseline=best,
            difference={} if system is None else self._minus(values[system[0]], values[best]),
            segments=self._segments(judged, {name: v["ndcg"] for name, v in values.items()}),
            groups=self._groups(judged, lists),
        )

    def _values(self, lists_BK: Ints, judged: Judged, expected_BE: Ints) -> dict[str, Doubles]:
        """Metric -> [B] values; NaN where a list is too short for the metric."""
        relevant, k = judged.relevant, self.k
        found = {
            "ndcg": metrics.ndcg_at_k(lists_BK, relevant, k),
            "precision": metrics.precision_at_k(lists_BK, relevant, k),
            "recall": metrics.recall_at_k(lists_BK, relevant, k),
            "mrr": metrics.mrr_at_k(lists_BK, relevant, k),
            "hit_rate": metrics.hit_rate_at_k(lists_BK, relevant, k),
            "serendipity": metrics.serendipity_at_k(lists_BK, relevant, expected_BE, k),
            "novelty": metrics.novelty(lists_BK, *self._buyers()),
        }
        if self.window.attributes.shape[1]:
            found["diversity"] = metrics.attribute_diversity(lists_BK, self.window.attributes)
        return found

    def _buyers(self) -> tuple[Ints, int]:
        """Buyers of each item before the cut-off, and all who bought anything."""
        seen = self.window.seen
        buyers = np.asarray(seen.sum(axis=0)).ravel().astype(np.int64)
        return buyers, int((np.diff(seen.indptr) > 0).sum())

    def _estimates(self, values: Mapping[str, Doubles]) -> dict[str, Estimate]:
        return {
            name: metrics.bootstrap(values[name], seed=self.seed, num_samples=self.samples)
            for name in METRICS
            if name in values and np.isfinite(values[name]).any()
        }

    def _minus(
        self, system: Mapping[str, Doubles], baseline: Mapping[str, Doubles]
    ) -> dict[str, Estimate]:
        """Paired: users are drawn with both of their values."""
        return self._estimates({name: system[name] - baseline[name] for name in system})

    def _segments(self, judged: Judged, ndcg: Mapping[str, Doubles]) -> list[Segment]:
        """Those who never shopped before are one of their own."""
        trips = self._trips()[judged.users]
        place = np.full(len(trips), -1)
        known = trips > 0
        if known.any():
            edges = np.quantile(trips[known], np.linspace(0, 1, NUM_SEGMENTS + 1)[1:-1])
            place[known] = np.searchsorted(np.unique(edges), trips[known], side="left")
        segments = []
        for part in np.unique(place):
            inside = place == part
            means = {name: float(values[inside].mean()) for name, values in ndcg.items()}
            segments.append(Segment(_span(trips[inside]), int(inside.sum()), means))
        return segments

    def _groups(self, judged: Judged, lists: Mapping[str, Ints]) -> list[GroupExposure]:
        """What share of the places items have that popularity leaves behind."""
        wanted = judged.relevant.item_row
        return [
            GroupExposure(
                label,
                float(member_R.sum() / max(len(self.window.items), 1)),
                float(member_R[wanted].mean()) if len(wanted) else 0.0,
                {
                    name: float(member_R[rows].sum() / max((rows > 0).sum(), 1))
                    for name, rows in lists.items()
                },
            )
            for label, member_R in self.window.groups.items()
        ]

    def _trips(self) -> Ints:
        """[users.num_rows] distinct times of purchase before the cut-off."""
        train = self.window.train
        pairs = np.unique(np.stack([train.user, train.time_s], axis=1), axis=0)
        return np.bincount(pairs[:, 0], minlength=self.window.users.num_rows).astype(np.int64)


def _span(trips: Ints) -> str:
    low, high = int(trips.min()), int(trips.max())
    return f"{low}" if low == high else f"{low}\u2013{high}"
