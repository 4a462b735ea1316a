"""The index over item vectors: its metric, its rows and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from feature_repo.contract.errors import ArtifactError, BadInput
from retrieval.index import Kind, build_index, load_index, save_index, search


def vectors(num_items: int, dim: int = 16) -> npt.NDArray[np.float32]:
    """Vectors of different lengths, so that inner product and distance disagree."""
    random = np.random.default_rng(0)
    made = random.normal(size=(num_items + 1, dim)) * random.gamma(2.0, 1.0, (num_items + 1, 1))
    made[0] = 100.0
    return made.astype(np.float32)


def clustered(num_items: int, dim: int = 16) -> npt.NDArray[np.float32]:
    """Vectors of length 1 around 30 centres, as those of a normalised model are."""
    random = np.random.default_rng(num_items)
    centres = np.random.default_rng(5).normal(size=(30, dim))
    made = centres[random.integers(0, 30, num_items + 1)]
    made = made + 0.3 * random.normal(size=made.shape)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32)


def test_a_flat_index_ranks_by_inner_product() -> None:
    items, users = vectors(300), vectors(5)[1:]

    rows, scores = search(build_index(items), users, 10)

    products = users @ items[1:].T
    assert rows.tolist() == (np.argsort(-products, axis=1)[:, :10] + 1).tolist()
    assert scores == pytest.approx(-np.sort(-products, axis=1)[:, :10], rel=1e-5)


def test_the_unknown_item_is_never_found() -> None:
    rows, _ = search(build_index(vectors(20)), vectors(3), 20)

    assert (rows > 0).all()


def test_missing_places_are_padded() -> None:
    rows, scores = search(build_index(vectors(3)), vectors(1), 5)

    assert rows[0, 3:].tolist() == [0, 0]
    assert np.isnan(scores[0, 3:]).all()


@pytest.mark.parametrize("kind", [Kind.ivf_pq, Kind.hnsw])
def test_approximate_indexes_find_most_of_the_best(kind: Kind, tmp_path: Path) -> None:
    items, users = clustered(3_000), clustered(20)[1:]
    save_index(build_index(items, kind), tmp_path / "index.faiss")

    found, _ = search(load_index(tmp_path / "index.faiss"), users, 20)

    exact, _ = search(build_index(items), users, 20)
    overlap = [np.isin(exact[user], found[user]).mean() for user in range(len(users))]
    assert np.mean(overlap) > 0.85


def test_a_compressed_index_needs_enough_items() -> None:
    with pytest.raises(BadInput, match="at least 1,000 items"):
        build_index(vectors(50), Kind.ivf_pq)


def test_a_truncated_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    save_index(build_index(vectors(50)), path)
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(ArtifactError, match="not a whole FAISS index"):
        load_index(path)
