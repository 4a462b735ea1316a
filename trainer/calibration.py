"""Fitting what turns a ranker's logits into probabilities of a purchase.

N candidates of B requests, that were not trained on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from feature_repo.contract.errors import BadInput
from ranking.calibration import Isotonic, Platt, calibration_error, sigmoid
from trainer.ranker_config import Calibrator

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def fit_calibration(method: Calibrator, logits_N: Floats, labels_N: Bools) -> Platt | Isotonic:
    """The rising curve that explains the labels best.

    Raises:
        BadInput: ``method`` is none.
    """
    match method:
        case Calibrator.platt:
            return fit_platt(logits_N.astype(np.float64), labels_N)
        case Calibrator.isotonic:
            return fit_isotonic(logits_N.astype(np.float64), labels_N)
        case Calibrator.none:
            raise BadInput("There is nothing to fit where the method is none.")


def fit_platt(logits_N: Doubles, labels_N: Bools) -> Platt:
    """By likelihood, with a slope that is not negative."""

    def loss(values: Doubles) -> tuple[float, Doubles]:
        said = values[0] * logits_N + values[1]
        error = sigmoid(said) - labels_N
        mean = float(np.mean(np.logaddexp(0.0, said) - labels_N * said))
        return mean, np.array([np.mean(error * logits_N), np.mean(error)])

    found = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    return Platt(float(found.x[0]), float(found.x[1]))


def fit_isotonic(logits_N: Doubles, labels_N: Bools) -> Isotonic:
    """By least squares over all functions that do not fall."""
    from sklearn.isotonic import IsotonicRegression  # takes a second to load

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(logits_N, labels_N)
    return Isotonic(
        np.asarray(fitted.X_thresholds_, dtype=np.float64),
        np.asarray(fitted.y_thresholds_, dtype=np.float64),
    )


def measured_errors(
    method: Calibrator, logits_N: Floats, labels_N: Bools, user_of_N: Ints
) -> dict[str, float]:
    """Calibration error of the logits as they are, and of calibrated ones: every other request's
    curve is fitted on the rest, so that no curve is judged on what it was fitted on."""
    half = user_of_N % 2 == 0
    said = np.empty(len(logits_N), dtype=np.float64)
    for mine in (half, ~half):
        curve = fit_calibration(method, logits_N[~mine], labels_N[~mine])
        said[mine] = curve.probabilities(logits_N[mine])
    return {
        "ece_before": calibration_error(sigmoid(logits_N), labels_N),
        "ece": calibration_error(said, labels_N),
    }


def require_both(labels_N: Bools, user_of_N: Ints) -> None:
    """Check that there is something to fit on.

    Raises:
        BadInput: either half of the requests has no candidate that was bought, or no other.
    """
    for half in (0, 1):
        labels = labels_N[user_of_N % 2 == half]
        if not labels.any() or labels.all():
            raise BadInput(
                f"A calibration is fitted on each half of the requests, but one has "
                f"{int(labels.sum())} bought candidates of {len(labels)}. Give a larger window "
                "(model.validation), hold out more users (model.calibration.held_out) or leave "
                "model.calibration.method out."
            )
