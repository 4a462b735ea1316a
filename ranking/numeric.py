"""Numbers as a network reads them: buckets, and scores that are spread like a bell.

N candidates, F columns, G grid points. A column's values enter twice: as the row of a table, which
lets the network treat every range on its own, and as a number, which tells values of one bucket
apart (the ten items that a user buys most all lie in the last one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.encoding import Quantiles
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.schema import Feature
from ranking.kernels import encode_columns

Codes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

GRID = 256
"""Quantiles between which normal scores are interpolated."""


@dataclass(frozen=True)
class Columns:
    """The numeric columns of N candidates, encoded."""

    codes: Codes
    """[N, F] buckets: 0 where missing, else 1 + the number of cut points below the value."""
    scores: Floats
    """[N, F] normal scores: the value's quantile under a normal distribution; 0 where missing."""

    def take(self, index: Ints | slice) -> Columns:
        """Some candidates."""
        return Columns(self.codes[index], self.scores[index])

    @staticmethod
    def joined(parts: Sequence[Columns]) -> Columns:
        """The candidates of all parts."""
        codes = np.concatenate([part.codes for part in parts])
        return Columns(codes, np.concatenate([part.scores for part in parts]))


@dataclass(frozen=True)
class NormalScores:
    """One column's map from values to normal scores, linear between its points."""

    values: Doubles
    """[G] rising quantiles of the fitted values, from the least to the greatest."""
    scores: Doubles
    """[G] rising; of equal quantiles the mean."""

    @staticmethod
    def fit(values: Floats) -> NormalScores:
        """Of the finite values; without any, every score is 0."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if not len(finite):
            return NormalScores(np.zeros(1), np.zeros(1))
        places = (np.arange(GRID) + 0.5) / GRID
        points = np.quantile(finite, np.linspace(0.0, 1.0, GRID))
        normal = np.array([NormalDist().inv_cdf(place) for place in places])
        distinct, inverse = np.unique(points, return_inverse=True)
        means = np.bincount(inverse, normal) / np.bincount(inverse)
        return NormalScores(distinct, means)


@dataclass(frozen=True)
class NumericEncoder:
    """Buckets and normal scores of all columns."""

    quantiles: Quantiles
    """Cut points by column, in the matrix's order."""
    normal: Mapping[str, NormalScores]
    """By column, likewise."""

    @staticmethod
    def fit(features: tuple[Feature, ...], values_NF: Floats) -> NumericEncoder:
        """Cut each column at the quantiles of its finite values."""
        columns = {f.name: values_NF[:, i] for i, f in enumerate(features)}
        return NumericEncoder(
            Quantiles.fit(columns, {f.name: f.buckets for f in features}),
            {name: NormalScores.fit(values) for name, values in columns.items()},
        )

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self.quantiles.edges)

    def require_columns(self, features: tuple[Feature, ...]) -> None:
        """Check that these are the columns that the cut points were found on.

        Raises:
            ArtifactError: they are not; the differing names are given.
        """
        names = [f.name for f in features]
        if names != self.names:
            differing = sorted(set(names) ^ set(self.names)) or "their order"
            raise ArtifactError(
                f"The ranker was trained on other columns or sources: {differing} differ. "
                "Train it again on candidates of this retriever."
            )

    def encode(self, values_NF: Floats) -> Columns:
        """Encode a matrix of these columns."""
        codes_FN, scores_FN = self.encode_columns(values_NF.T)
        return Columns(np.ascontiguousarray(codes_FN.T), np.ascontiguousarray(scores_FN.T))

    def encode_columns(self, values_FN: Floats) -> tuple[Codes, Floats]:
        """[F, N] buckets and [F, N] normal scores of these columns; see ``Columns``."""
        return encode_columns(np.ascontiguousarray(values_FN, dtype=np.float32), *self._points)

    @cached_property
    def _points(self) -> tuple[Floats, Codes, Floats]:
        """What ``ranking.kernels.encode_columns`` reads."""
        ends = [
            np.unique(
                np.concatenate([self.quantiles.edges[name], points.values.astype(np.float32)])
            )
            for name, points in self.normal.items()
        ]
        size = 1 << max((len(column) for column in ends), default=0).bit_length()
        points = np.full((len(ends), size), np.inf, np.float32)
        codes = np.ones((len(ends), size), np.uint8)
        lines = np.zeros((len(ends), size, 3), np.float32)
        for column, (name, normal) in enumerate(self.normal.items()):
            own = ends[column]
            last, inner = len(own), slice(1, len(own))
            scores = np.interp(own, normal.values, normal.scores)
            points[column, :last] = own
            cuts = self.quantiles.edges[name]
            codes[column, 1 : last + 1] = 1 + np.searchsorted(cuts, own, side="right")
            lines[column, 0, 1], lines[column, last, 1] = scores[0], scores[-1]
            lines[column, inner, 0], lines[column, inner, 1] = own[:-1], scores[:-1]
            lines[column, inner, 2] = np.diff(scores) / np.diff(own.astype(np.float64))
        return points, codes, lines

    def save(self, path: Path) -> None:
        """Write the cut points and grids as JSON."""
        columns = [
            {
                "name": name,
                "cuts": cuts.tolist(),
                "values": self.normal[name].values.tolist(),
                "scores": self.normal[name].scores.tolist(),
            }
            for name, cuts in self.quantiles.edges.items()
        ]
        write_json(path, {"format": 1, "columns": columns})

    @staticmethod
    def load(path: Path) -> NumericEncoder:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: the file is missing or of another format.
        """
        saved = read_json(path)
        if not isinstance(saved, dict) or saved.get("format") != 1:
            raise ArtifactError(f"{path} does not hold cut points of format 1; train again.")
        edges, normal = {}, {}
        for column in saved["columns"]:
            edges[column["name"]] = np.array(column["cuts"], dtype=np.float32)
            normal[column["name"]] = NormalScores(
                np.array(column["values"], dtype=np.float64),
                np.array(column["scores"], dtype=np.float64),
            )
        return NumericEncoder(Quantiles(edges), normal)
