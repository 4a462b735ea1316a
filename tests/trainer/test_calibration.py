"""Calibrations find the probabilities that labels were drawn from, without reordering anything."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput, ConfigError
from ranking.calibration import Platt, sigmoid
from trainer.calibration import fit_calibration, fit_platt, measured_errors, require_both
from trainer.ranker_config import CalibrationConfig, Calibrator

METHODS = [Calibrator.platt, Calibrator.isotonic]
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=20_000).astype(np.float32) * 3
LABELS = RANDOM.random(len(LOGITS)) < Platt(0.5, -2.0).probabilities(LOGITS)
"""Bought half as surely, and less often, than the logits say."""
USER_OF = np.arange(len(LOGITS)) // 50


def test_the_logistic_curve_that_labels_were_drawn_from_is_found() -> None:
    found = fit_platt(LOGITS.astype(np.float64), LABELS)

    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.offset == pytest.approx(-2.0, abs=0.06)


def test_the_likeliest_curve_says_what_happened_on_the_whole() -> None:
    found = fit_platt(LOGITS.astype(np.float64), LABELS).probabilities(LOGITS)

    # Where the gradient by the offset is zero, the means agree; by the slope, the products.
    assert found.mean() == pytest.approx(LABELS.mean(), rel=1e-4)
    assert (found * LOGITS).mean() == pytest.approx((LABELS * LOGITS).mean(), abs=1e-4)


def test_logits_that_order_the_wrong_way_are_not_turned_around() -> None:
    found = fit_platt(-LOGITS.astype(np.float64), LABELS)

    assert found.slope == 0.0
    assert sigmoid(np.array([found.offset]))[0] == pytest.approx(LABELS.mean(), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_logits_never_fall(method: Calibrator) -> None:
    curve = fit_calibration(method, LOGITS, LABELS)

    said = curve.probabilities(np.sort(LOGITS))

    assert (np.diff(said) >= 0).all()
    assert 0 <= said[0] < said[-1] <= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls(method: Calibrator) -> None:
    errors = measured_errors(method, LOGITS, LABELS, USER_OF)

    assert errors["ece_before"] > 0.2
    assert errors["ece"] < 0.02


def test_a_window_without_purchases_is_refused() -> None:
    require_both(LABELS, USER_OF)
    with pytest.raises(BadInput, match="one has 0 bought candidates of 10000"):
        require_both(LABELS & (USER_OF % 2 == 0), USER_OF)


def test_holding_out_nobody_or_everybody_is_refused() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        CalibrationConfig(held_out=1.0)
