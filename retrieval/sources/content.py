"""Items that are alike to those that the user buys, by what is written of them.

Shapes: B users, N items, R rows of the item vocabulary, D width of the items' own vectors, P
topics, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.candidates import TopK
from retrieval.sources.base import (
    Floats,
    Ints,
    Transform,
    UserBatch,
    best,
    load_arrays,
    save_arrays,
    spans,
    stacked,
    unit_rows,
)
from retrieval.sources.content_features import ContentEncoder, Topics

_ARRAYS = ("item_vectors", "groups", "named")
CHUNK = 64
"""Users whose scores of all items are held at once."""


@dataclass(frozen=True)
class ContentSource:
    """Items whose vectors agree with the user's profile, whether anybody bought them or not.

    A profile is the decayed weighted mean of the vectors of the history's items, beside the
    user's mixture of topics. Items of nothing known score 0 and are not named. All items are
    compared; above a million of them, build an index over ``item_vectors``.
    """

    name: str
    encoder: ContentEncoder
    topics: Topics | None
    item_vectors: Floats
    """[R, D + P]"""
    groups: npt.NDArray[np.int32]
    """[R] group of each item, from 1; all zero without topics."""
    named: npt.NDArray[np.bool_]
    """[R] items that lists may hold, such as those with few buyers."""
    transform: Transform
    half_life_days: float
    new_only: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """See ``Source``."""
        return {
            "kind": "content",
            "topics": self.topics is not None,
            "transform": self.transform.value,
            "half_life_days": self.half_life_days,
            "new_only": self.new_only,
        }

    def vectors_of(self, items: pa.Table) -> Floats:
        """[N, D + P] vectors of items, of the vocabulary or outside of it.

        Args:
            items: rows with the columns that the encoder reads.

        Raises:
            BadInput: the items lack a column, named.
        """
        own = self.encoder.vectors_of(items)
        return own if self.topics is None else np.hstack([own, self.topics.vectors_of(items)])

    def profiles(self, users: UserBatch) -> Floats:
        """[B, D + P] user vectors; zero for a user of whose history nothing is known."""
        worth = users.worth(self.transform, self.half_life_days)
        own = np.zeros((len(users), self._own), dtype=np.float32)
        counts = np.zeros((len(users), self._num_groups + 1), dtype=np.float32)
        for user, part in spans(users.histories.offsets):
            rows = users.histories.item_row[part]
            own[user] = worth[part] @ self.item_vectors[rows, : self._own]
            counts[user] = np.bincount(self.groups[rows], worth[part], counts.shape[1])
        own = unit_rows(own)
        return own if self.topics is None else np.hstack([own, self.topics.mixtures(counts)])

    @cached_property
    def _own(self) -> int:
        """D"""
        topics = 0 if self.topics is None else len(self.topics.topics)
        return int(self.item_vectors.shape[1]) - topics

    @cached_property
    def _num_groups(self) -> int:
        """G"""
        return 0 if self.topics is None else len(self.topics.groups)

    def top(self, users: UserBatch, k: int) -> TopK:
        """See ``Source``; a user without a history has none."""
        lists = []
        for first, scores in self._all_scores(self.profiles(users)):
            for place, mine in enumerate(scores):
                if self.new_only:
                    mine[users.known(first + place)] = 0.0
                kept = np.flatnonzero((mine > 0) & self.named)
                lists.append(best(kept, mine[kept], k))
        return stacked(lists, k)

    def _all_scores(self, profiles: Floats) -> Iterator[tuple[int, Floats]]:
        for start in range(0, len(profiles), CHUNK):
            yield start, profiles[start : start + CHUNK] @ self.item_vectors.T

    def score(self, users: UserBatch, offsets: Ints, item_row: Ints) -> Floats:
        """See ``Source``; NaN where nothing is known of the item or of the user's history."""
        profiles = np.repeat(self.profiles(users), np.diff(offsets), axis=0)
        scores = (profiles * self.item_vectors[item_row]).sum(axis=1)
        return np.where(scores > 0, scores, np.float32(np.nan))

    def save(self, folder: Path) -> None:
        """Write the vectors and what they were made by."""
        self.encoder.save(folder)
        if self.topics is not None:
            self.topics.save(folder)
        save_arrays(folder, **{name: getattr(self, name) for name in _ARRAYS})

    @staticmethod
    def load(folder: Path, name: str, settings: dict[str, Any]) -> ContentSource:
        """Memory-map a saved source.

        Args:
            folder: where ``save`` wrote.
            name: of the source.
            settings: its ``about``.
        """
        arrays = load_arrays(folder, *_ARRAYS)
        return ContentSource(
            name,
            ContentEncoder.load(folder),
            Topics.load(folder) if settings["topics"] else None,
            arrays["item_vectors"],
            arrays["groups"],
            arrays["named"],
            Transform(settings["transform"]),
            float(settings["half_life_days"]),
            bool(settings["new_only"]),
        )
