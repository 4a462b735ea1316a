"""From logits to probabilities: a rising function, fitted on candidates that were not trained on.

Applied by numpy alone; ``trainer.calibration`` fits it. N candidates, G points of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError

Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating]

BINS = 15
"""Of the calibration error."""


class Calibration(Protocol):
    """A rising function from logits to probabilities."""

    def probabilities(self, logits_N: Numbers) -> Doubles:
        """[N] in [0, 1]; they never order two candidates against their logits."""


@dataclass(frozen=True)
class Platt:
    """A logistic curve (Platt, "Probabilistic Outputs for Support Vector Machines", 1999)."""

    slope: float
    """Not negative."""
    offset: float

    def probabilities(self, logits_N: Numbers) -> Doubles:
        """See ``Calibration``."""
        return sigmoid(self.slope * np.asarray(logits_N, dtype=np.float64) + self.offset)


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between points (Zadrozny and Elkan, "Transforming Classifier Scores into
    Accurate Multiclass Probability Estimates", 2002); level beyond the ends."""

    logits: Doubles
    """[G] rising."""
    values: Doubles
    """[G] not falling, in [0, 1]."""

    def probabilities(self, logits_N: Numbers) -> Doubles:
        """See ``Calibration``."""
        return np.interp(np.asarray(logits_N, dtype=np.float64), self.logits, self.values)


def sigmoid(logits_N: Numbers) -> Doubles:
    """[N] 1 / (1 + exp(-x)), also of large logits."""
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits_N, dtype=np.float64))


def calibration_error(
    probabilities_N: Numbers, labels_N: npt.NDArray[np.bool_], bins: int = BINS
) -> float:
    """Expected calibration error (Naeini et al., "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning", 2015): the mean distance between what was said and what happened, over
    ``bins`` groups of equally many candidates by rising probability."""
    order = np.argsort(probabilities_N, kind="stable")
    said, happened = (
        np.array_split(np.asarray(values, dtype=np.float64)[order], bins)
        for values in (probabilities_N, labels_N)
    )
    # Of the sums: a group's size times the distance of its means.
    distances = (abs(float(a.sum() - b.sum())) for a, b in zip(said, happened, strict=True))
    return sum(distances) / max(len(order), 1)


def save_calibration(path: Path, calibration: Platt | Isotonic) -> None:
    """Write what ``load_calibration`` reads, as JSON."""
    match calibration:
        case Platt(slope, offset):
            said = {"method": "platt", "slope": slope, "offset": offset}
        case Isotonic(logits, values):
            said = {"method": "isotonic", "logits": logits.tolist(), "values": values.tolist()}
    write_json(path, {"format": 1, **said})


def load_calibration(path: Path) -> Calibration:
    """Read what ``save_calibration`` wrote.

    Raises:
        ArtifactError: the file is missing or of another format.
    """
    match read_json(path):
        case {"format": 1, "method": "platt", "slope": float(slope), "offset": float(offset)}:
            return Platt(slope, offset)
        case {"format": 1, "method": "isotonic", "logits": list(logits), "values": list(values)}:
            return Isotonic(np.array(logits, np.float64), np.array(values, np.float64))
    raise ArtifactError(f"{path} does not hold a calibration of format 1; train again.")
