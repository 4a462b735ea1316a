"""Calibrations rise, stay the same when saved, and their error is what its formula says."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.errors import ArtifactError
from ranking.calibration import (
    Isotonic,
    Platt,
    calibration_error,
    load_calibration,
    save_calibration,
    sigmoid,
)

LOGISTIC = Platt(0.5, -1.0)
STRAIGHT = Isotonic(np.array([-2.0, 0.0, 1.0]), np.array([0.1, 0.1, 0.6]))


def test_a_logistic_curve_is_a_sigmoid_of_a_line() -> None:
    found = LOGISTIC.probabilities(np.array([4.0, -2.0], np.float32))

    assert found.tolist() == pytest.approx([1 / (1 + exp(-1.0)), 1 / (1 + exp(2.0))])


def test_an_isotonic_curve_is_straight_between_its_points_and_level_beyond() -> None:
    found = STRAIGHT.probabilities(np.array([-9.0, -1.0, 0.5, 9.0]))

    assert found.tolist() == [0.1, 0.1, pytest.approx(0.1 + 0.5 * (0.6 - 0.1)), 0.6]


def test_the_sigmoid_of_large_logits_is_finite() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("curve", [LOGISTIC, STRAIGHT])
def test_a_saved_calibration_is_the_same(curve: Platt | Isotonic, tmp_path: Path) -> None:
    save_calibration(tmp_path / "calibration.json", curve)

    again = load_calibration(tmp_path / "calibration.json")

    logits = np.linspace(-3, 3, 50)
    np.testing.assert_array_equal(again.probabilities(logits), curve.probabilities(logits))


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "calibration.json", {"format": 2, "method": "platt"})

    with pytest.raises(ArtifactError, match="calibration of format 1"):
        load_calibration(tmp_path / "calibration.json")


def test_the_error_is_the_mean_distance_over_groups_of_equal_size() -> None:
    said = np.array([0.9, 0.1, 0.2, 0.4])
    bought = np.array([True, False, True, False])

    # By rising probability: {.1, .2} of which one was bought, {.4, .9} of which one was.
    expected = (2 * abs(0.15 - 0.5) + 2 * abs(0.65 - 0.5)) / 4
    assert calibration_error(said, bought, bins=2) == pytest.approx(expected)


def test_what_happens_as_often_as_it_is_said_has_no_error() -> None:
    said = np.repeat([0.25, 0.5], 4)
    bought = np.array([True, False, False, False, True, True, False, False])

    assert calibration_error(said, bought, bins=2) == 0.0
