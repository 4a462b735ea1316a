"""EASE, against plain dense algebra."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput
from retrieval.sources import Transform
from tests.trainer.made_purchases import dense, made_purchases
from trainer.ease import fit_ease


def test_ease_is_the_closed_form() -> None:
    made = made_purchases()

    found = dense(*fit_ease(made, Transform.BINARY, num_items=8, l2=2.0, kept=8))

    x = made.matrix(Transform.BINARY).toarray()[:, 1:].astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(8))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    assert found[1:, 1:] == pytest.approx(expected, abs=1e-4)


def test_ease_keeps_the_largest_weights_negative_ones_too() -> None:
    whole = dense(*fit_ease(made_purchases(), Transform.LOG, num_items=8, l2=2.0, kept=8))

    found = dense(*fit_ease(made_purchases(), Transform.LOG, num_items=8, l2=2.0, kept=2))

    for row in range(1, 9):
        kept = np.argsort(-np.abs(whole[row]))[:2]
        assert set(np.flatnonzero(found[row])) == set(kept)
    assert (found < 0).any()


def test_ease_knows_only_the_most_bought_items() -> None:
    made = made_purchases()
    popular = np.sort(np.argsort(-made.buyers(), kind="stable")[:4])

    neighbours, _ = fit_ease(made, Transform.BINARY, num_items=4, l2=2.0, kept=3)

    assert set(np.unique(neighbours)) <= {0, *popular.tolist()}
    assert np.flatnonzero(neighbours.any(axis=1)).tolist() == popular.tolist()


def test_exponents_weigh_users_and_hold_back_the_much_bought() -> None:
    made = made_purchases()

    found = dense(
        *fit_ease(
            made,
            Transform.BINARY,
            num_items=8,
            l2=2.0,
            kept=8,
            user_exponent=0.25,
            item_exponent=0.4,
        )
    )

    x = made.matrix(Transform.BINARY).toarray()[:, 1:].astype(np.float64)
    x = x[x.any(axis=1)]
    users, items = x.sum(axis=1), x.sum(axis=0)
    penalty = np.diag(2.0 * items ** (2 * 0.4))
    inverse = np.linalg.inv(x.T @ np.diag(users ** (-2 * 0.25)) @ x + penalty)
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    assert found[1:, 1:] == pytest.approx(expected, abs=1e-4)


def test_a_system_that_cannot_be_solved_is_refused() -> None:
    with pytest.raises(BadInput, match=r"raise ease\.l2"):
        fit_ease(made_purchases(), Transform.BINARY, num_items=8, l2=-500.0, kept=8)


@pytest.mark.parametrize("tile", [1, 3, 8])
def test_an_inverse_is_mirrored_in_tiles_of_any_size(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.ease.TILE", tile)

    tiled = fit_ease(made_purchases(), Transform.BINARY, num_items=8, l2=2.0, kept=8)

    monkeypatch.undo()
    whole = fit_ease(made_purchases(), Transform.BINARY, num_items=8, l2=2.0, kept=8)
    np.testing.assert_allclose(dense(*tiled), dense(*whole), rtol=1e-6)
