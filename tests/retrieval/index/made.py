"""Made-up item and user vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.index import IndexConfig, ItemIndex, Kind, build_index

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def unit(vectors: npt.NDArray[np.float64]) -> Floats:
    """Each of length 1."""
    found: Floats = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return found


def clustered(num_items: int, dim: int = 16, seed: int = 0) -> Floats:
    """[N + 1, V] vectors of length 1 around 30 centres, as those of a normalised model are."""
    random = np.random.default_rng([seed, num_items])
    centres = np.random.default_rng(5).normal(size=(30, dim))
    near = centres[random.integers(0, 30, num_items + 1)]
    return unit(near + 0.3 * random.normal(size=near.shape))


def exact(items: Floats, users: Floats, k: int, allowed: Ints | None = None) -> Ints:
    """[B, k] rows of the largest products, of the rows from 1 or of those allowed."""
    rows = np.arange(1, len(items)) if allowed is None else allowed
    return rows[np.argsort(-(users @ items[rows].T), axis=1, kind="stable")[:, :k]]


def overlap(found: Ints, expected: Ints) -> float:
    """Mean share of the expected rows that were found."""
    return float(np.mean([np.isin(e, f).mean() for f, e in zip(found, expected, strict=True)]))


def built(folder: Path, items: Floats, kind: Kind, changes: Path | None = None) -> ItemIndex:
    """An index of ``items``, whose ids are ten times their rows."""
    users = clustered(200, items.shape[1], seed=9)[1:]
    config = IndexConfig(kind=kind, k=20, target_recall=0.9)
    build_index(items, folder, config, users, ids=np.arange(1, len(items)) * 10)
    return ItemIndex.load(folder, changes=changes)
