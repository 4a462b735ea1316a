"""Buckets and normal scores of numeric columns."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from feature_repo.contract.errors import ArtifactError
from ranking.features import BUCKETS, numeric_features
from ranking.numeric import GRID, Columns, NormalScores, NumericEncoder

FEATURES = numeric_features(("popular",))


def sample() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    values = np.random.default_rng(0).normal(size=(500, len(FEATURES))).astype(np.float32)
    values[::7] = np.nan
    values[:, 1] = np.nan
    return values


def test_buckets_are_those_of_the_contract() -> None:
    values = sample()
    encoder = NumericEncoder.fit(FEATURES, values)

    codes = encoder.encode(values).codes

    assert codes.max() < BUCKETS
    for index, feature in enumerate(FEATURES):
        expected = encoder.quantiles.bucket(feature.name, values[:, index])
        np.testing.assert_array_equal(codes[:, index], expected)


def test_missing_values_are_bucket_zero_and_score_zero() -> None:
    values = sample()

    columns = NumericEncoder.fit(FEATURES, values).encode(values)

    assert (columns.codes[::7] == 0).all()
    assert (columns.scores[::7] == 0).all()
    assert (columns.codes[:, 1] == 0).all()


def scores_of(fitted: npt.ArrayLike, values: list[float]) -> list[float]:
    """Normal scores of values of one column, by others that it was fitted on."""
    column = np.asarray(fitted, np.float32)[:, None]
    encoder = NumericEncoder.fit(FEATURES[:1], column)
    found = encoder.encode(np.array(values, np.float32)[:, None]).scores
    return [float(score) for score in found[:, 0]]


def test_normal_scores_are_the_quantiles_of_a_normal_distribution() -> None:
    last = NormalDist().inv_cdf((GRID - 0.5) / GRID)

    found = scores_of(np.linspace(10.0, 20.0, 10_001), [15.0, 10.0, 20.0, 99.0, -np.inf, 17.5])

    assert found[:5] == pytest.approx([0.0, -last, last, last, -last], abs=1e-3)
    assert found[5] == pytest.approx(NormalDist().inv_cdf(0.75), abs=0.01)


def test_normal_scores_are_linear_between_their_points() -> None:
    values = np.random.default_rng(2).lognormal(size=1_000).astype(np.float32)
    points = NormalScores.fit(values)
    asked = np.concatenate([values, values * 1.01, [0.0, 1e9]]).astype(np.float32)

    expected = np.interp(asked, points.values, points.scores)

    assert scores_of(values, asked.tolist()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_normal_scores_rise_with_the_value_even_among_ties() -> None:
    values = np.random.default_rng(1).integers(0, 5, 1_000)

    assert (np.diff(scores_of(values, [0, 1, 2, 3, 4])) > 0).all()


def test_a_column_of_one_value_has_one_score() -> None:
    assert scores_of(np.full(9, 3.0), [3, 4]) == pytest.approx([0.0, 0.0], abs=1e-6)


def test_columns_are_taken_and_joined_by_candidate() -> None:
    values = sample()
    columns = NumericEncoder.fit(FEATURES, values).encode(values)

    again = Columns.joined([columns.take(slice(0, 99)), columns.take(np.arange(99, 500))])

    np.testing.assert_array_equal(again.codes, columns.codes)
    np.testing.assert_array_equal(again.scores, columns.scores)


def test_a_saved_encoder_encodes_alike(tmp_path: Path) -> None:
    values = sample()
    encoder = NumericEncoder.fit(FEATURES, values)
    encoder.save(tmp_path / "quantiles.json")

    loaded = NumericEncoder.load(tmp_path / "quantiles.json")

    assert loaded.names == encoder.names
    np.testing.assert_array_equal(loaded.encode(values).scores, encoder.encode(values).scores)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quantiles.json").write_text("{}")

    with pytest.raises(ArtifactError, match="format 1"):
        NumericEncoder.load(tmp_path / "quantiles.json")


def test_other_columns_than_the_fitted_are_refused_by_name() -> None:
    encoder = NumericEncoder.fit(FEATURES, sample())

    with pytest.raises(ArtifactError, match="'ann_rank', 'ann_score', 'popular_rank'"):
        encoder.require_columns(numeric_features(("ann",)))
