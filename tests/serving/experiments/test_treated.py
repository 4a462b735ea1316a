"""Sources that a variant leaves out, and the weights of those that it has."""

from __future__ import annotations

import numpy as np

from feature_repo.contract.candidates import Candidates
from serving.experiments.treated import from_sources, source_weights
from serving.ranked import fused

NAN = np.nan


def candidates() -> Candidates:
    """Two users; of the first three items by a, b and both, of the second one item by b."""
    rank = np.array([[1, NAN], [NAN, 1], [2, 2], [NAN, 3]], np.float32)
    return Candidates(
        ("a", "b"),
        np.array([0, 3, 4]),
        np.array([11, 12, 13, 14]),
        np.where(np.isnan(rank), NAN, 0.5).astype(np.float32),
        rank,
    )


def test_without_a_choice_the_candidates_are_the_same() -> None:
    found = candidates()

    assert from_sources(found, [(), ()]) is found


def test_a_source_that_was_not_chosen_names_nothing() -> None:
    found = from_sources(candidates(), [(("a", 1.0),), ()])

    assert found.item_row.tolist() == [11, 13, 14]
    assert found.offsets.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(found.rank, [[1, NAN], [2, NAN], [NAN, 3]])
    np.testing.assert_array_equal(found.score, [[0.5, NAN], [0.5, NAN], [NAN, 0.5]])


def test_a_user_may_be_left_without_candidates() -> None:
    found = from_sources(candidates(), [(), (("a", 1.0),)])

    assert found.item_row.tolist() == [11, 12, 13]
    assert found.offsets.tolist() == [0, 3, 3]
    assert len(found) == 2


def test_weights_count_in_fused_ranks() -> None:
    found = candidates()
    weights = source_weights(found, [(("a", 2.0), ("b", 0.5)), ()])

    want = [
        2 * 1 / (60 + 1),
        0.5 * 1 / (60 + 1),
        2 * 1 / (60 + 2) + 0.5 * 1 / (60 + 2),
        1 / (60 + 3),
    ]
    np.testing.assert_allclose(fused(found, weights), want, rtol=1e-6)


def test_equal_weights_are_no_weights() -> None:
    assert source_weights(candidates(), [(("a", 1.0),), ()]) is None
