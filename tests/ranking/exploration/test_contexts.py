from __future__ import annotations

import numpy as np
import pytest

from ranking.calibration import Platt
from ranking.exploration.contexts import DIM, NAMES, Facts, contexts, expectations


def facts(scores: list[float]) -> Facts:
    count = len(scores)
    half = np.full(count, 0.5)
    return Facts(np.array(scores), half, half, np.zeros(count), half, activity=0.5)


def test_a_context_has_a_number_for_each_name() -> None:
    found = contexts(facts([3.0, 2.0, 1.0]))

    assert found.shape == (3, DIM)
    named = dict(zip(NAMES, found[1].tolist(), strict=True))
    assert named["place"] == pytest.approx(1 / np.log2(3))
    assert named["score"] == pytest.approx(0.0)
    assert named["active_novelty"] == pytest.approx(0.5 * 0.5)


def test_scores_of_any_scale_have_the_same_contexts() -> None:
    one, other = contexts(facts([3.0, 2.0, 1.0])), contexts(facts([1030.0, 1020.0, 1010.0]))

    assert np.allclose(one, other)
    assert np.isfinite(contexts(facts([1.0, 1.0]))).all()


def test_expectations_are_calibrated_probabilities_where_there_are_any() -> None:
    scores = np.array([2.0, 0.0])

    assert expectations(scores, 0.1, Platt(1.0, 0.0)).tolist() == pytest.approx(
        [1 / (1 + np.exp(-2)), 0.5]
    )
    assert expectations(scores, 0.1, None).tolist() == pytest.approx([0.1, 0.1 / np.log2(3)])
