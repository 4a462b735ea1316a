"""Several sources as one: their scores, made comparable, in a learned sum.

Shapes: B users, K candidates, N candidates of all users, S sources, P = 2 S parts of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract.candidates import TopK, merge
from feature_repo.contract.errors import ArtifactError
from retrieval.sources.base import Floats, Ints, Source, UserBatch, best, spans, stacked

LARGEST = 6.0
"""Standard deviations that a score lies from a user's mean, at most."""


@dataclass(frozen=True)
class BlendSource:
    """The best of what any of its sources names, by all of them together.

    Every candidate is scored by every source. A source's scores of one user's candidates count
    twice: in standard deviations from their mean, and as the logarithm of their rank; the sum of
    these parts by learned weights is the blend's score.
    """

    name: str
    sources: tuple[Source, ...]
    weights: Floats
    """[P] of the standardised scores of the S sources, then of their ranks."""
    depth: int
    """Candidates that each source names."""

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``; the sources themselves are described beside it."""
        return {
            "kind": "blend",
            "sources": [source.name for source in self.sources],
            "weights": [float(weight) for weight in self.weights],
            "depth": self.depth,
        }

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``."""
        offsets, rows = self.candidates(users)
        scores = self.score(users, offsets, rows)
        lists = [best(rows[part], scores[part], k) for _, part in spans(offsets)]
        return stacked(lists, k)

    def candidates(self, users: UserBatch) -> tuple[Ints, Ints]:
        """Offsets [B + 1] and rows [N] of what any source names."""
        found = merge({source.name: source.top(users, self.depth) for source in self.sources})
        return found.offsets, found.item_row

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; scores depend on which items are scored together."""
        return np.asarray(self.parts(users, offsets, item_row) @ self.weights, dtype=np.float32)

    def parts(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """[N, P] the parts of the sum."""
        scores = np.stack(
            [source.score(users, offsets, item_row) for source in self.sources], axis=1
        )
        found = np.empty((len(item_row), 2 * len(self.sources)), dtype=np.float32)
        for _, part in spans(offsets):
            found[part] = comparable(scores[part])
        return found

    def save(self, folder: Path) -> None:
        """Nothing: the weights stand in ``about``, and the sources have files of their own."""

    @staticmethod
    def of(name: str, settings: dict[str, Any], sources: Mapping[str, Source]) -> BlendSource:
        """The blend of some of the sources that are loaded already.

        Raises:
            ArtifactError: one of its sources is missing.
        """
        missing = sorted(set(settings["sources"]) - set(sources))
        if missing:
            raise ArtifactError(
                f"The blend {name} is of {settings['sources']}; missing: {missing}."
            )
        weights = np.array(settings["weights"], dtype=np.float32)
        chosen = tuple(sources[source] for source in settings["sources"])
        return BlendSource(name, chosen, weights, int(settings["depth"]))


def comparable(scores_KS: Floats) -> Floats:
    """[K, P] one user's scores by each source, standardised, and minus the logarithms of ranks.

    What a source says nothing of (NaN) stands below everything that it names.
    """
    if not len(scores_KS):
        return np.zeros((0, 2 * scores_KS.shape[1]), dtype=np.float32)
    lowest = np.where(np.isnan(scores_KS), np.inf, scores_KS).min(axis=0)
    filled = np.where(np.isnan(scores_KS), np.where(np.isfinite(lowest), lowest, 0.0), scores_KS)
    deviation = filled.std(axis=0)
    centred = filled - filled.mean(axis=0)
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    order = np.argsort(np.argsort(-filled, axis=0, kind="stable"), axis=0)
    ranks = -np.log1p(order)
    clipped = np.clip(scaled, -LARGEST, LARGEST)
    return np.concatenate([clipped, ranks], axis=1).astype(np.float32)
