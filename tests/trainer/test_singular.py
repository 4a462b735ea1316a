"""Leading singular vectors, against a dense decomposition."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from trainer.singular import leading_singular


def sparse(seed: int = 0, shape: tuple[int, int] = (120, 70)) -> sp.csr_matrix:
    return sp.random_array(
        shape, density=0.1, format="csr", dtype=np.float32, rng=np.random.default_rng(seed)
    )


def test_values_and_vectors_are_those_of_a_dense_decomposition() -> None:
    matrix = sparse()

    values, vectors = leading_singular(matrix, 10, np.random.default_rng(1))

    _, all_values, all_vectors = np.linalg.svd(matrix.toarray().astype(np.float64))
    np.testing.assert_allclose(values[:5], all_values[:5], rtol=1e-3)
    alike = np.abs(np.einsum("kr,rk->k", all_vectors[:3], vectors[:, :3]))
    np.testing.assert_allclose(alike, 1.0, atol=5e-3)


def test_vectors_are_orthonormal_and_values_fall() -> None:
    values, vectors = leading_singular(sparse(), 20, np.random.default_rng(1))

    np.testing.assert_allclose(vectors.T @ vectors, np.eye(20), atol=1e-5)
    assert (np.diff(values) <= 0).all()


def test_a_small_matrix_has_no_more_vectors_than_rows_or_columns() -> None:
    matrix = sparse(shape=(6, 9))

    values, vectors = leading_singular(matrix, 50, np.random.default_rng(1))

    assert values.shape == (6,)
    assert vectors.shape == (9, 6)
    product = matrix.T @ matrix
    np.testing.assert_allclose(vectors * values**2 @ vectors.T, product.toarray(), atol=1e-5)


def test_the_same_seed_gives_the_same_vectors() -> None:
    first = leading_singular(sparse(), 10, np.random.default_rng(1))
    second = leading_singular(sparse(), 10, np.random.default_rng(1))

    np.testing.assert_array_equal(first[1], second[1])
