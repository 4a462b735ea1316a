"""The wide side: one-hot rows of buckets, and of buckets crossed with each other.

A cross of features with a, b, ... buckets each has a row for every combination where there are at
most ``max_rows``, else ``max_rows`` rows that combinations are hashed to (Cheng et al., 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import ConfigError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)."""


@dataclass(frozen=True)
class Cross:
    """One group of rows of the wide side."""

    features: tuple[str, ...]
    sizes: tuple[int, ...]
    """Buckets of each feature."""
    first_row: int
    num_rows: int

    def rows(self, codes: Mapping[str, Codes]) -> Ints:
        """[N] the row of each example."""
        cell = np.zeros(len(codes[self.features[0]]), dtype=np.int64)
        for name, size in zip(self.features, self.sizes, strict=True):
            cell = cell * size + codes[name]
        if self.num_rows < prod(self.sizes):
            mixed = (cell.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
            cell = ((mixed >> np.uint64(32)) % np.uint64(self.num_rows)).astype(np.int64)
        return cell + self.first_row


@dataclass(frozen=True)
class Crosses:
    """All rows of the wide side."""

    crosses: tuple[Cross, ...]

    @staticmethod
    def declare(
        declared: Sequence[Sequence[str]], sizes: Mapping[str, int], max_rows: int
    ) -> Crosses:
        """Lay out one group of rows for each tuple of feature names.

        Args:
            declared: tuples of features; one name alone is that feature's one-hot.
            sizes: feature -> buckets, of all features that may be named.
            max_rows: most rows of one cross.

        Raises:
            ConfigError: a feature is unknown, or a tuple is empty, or given twice.
        """
        crosses: list[Cross] = []
        first_row = 0
        for names in declared:
            _require_known(names, sizes)
            counts = tuple(sizes[name] for name in names)
            num_rows = min(prod(counts), max_rows)
            crosses.append(Cross(tuple(names), counts, first_row, num_rows))
            first_row += num_rows
        given = [cross.features for cross in crosses]
        twice = sorted({names for names in given if given.count(names) > 1})
        if twice:
            raise ConfigError(f"These crosses are declared twice: {twice}.")
        return Crosses(tuple(crosses))

    @property
    def num_rows(self) -> int:
        """Rows of the wide side."""
        return sum(cross.num_rows for cross in self.crosses)

    @property
    def features(self) -> tuple[str, ...]:
        """The features that are read, each once."""
        return tuple(dict.fromkeys(name for cross in self.crosses for name in cross.features))

    def rows(self, codes: Mapping[str, Codes], num_examples: int) -> Ints:
        """[N, C] the row of each example in each cross; ``codes`` are [N] buckets by feature."""
        if not self.crosses:
            return np.zeros((num_examples, 0), dtype=np.int64)
        return np.stack([cross.rows(codes) for cross in self.crosses], axis=1)


def _require_known(names: Sequence[str], sizes: Mapping[str, int]) -> None:
    unknown = [name for name in names if name not in sizes]
    if unknown or not names:
        raise ConfigError(
            f"The cross {list(names)} names {unknown or 'no feature'}; "
            f"a cross is made of {sorted(sizes)}."
        )
