"""The FAISS index over the item vectors; its metric is the model's: inner product.

Position ``i`` of the index is row ``i + 1`` of the item vocabulary.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import atomic_path
from feature_repo.contract.errors import ArtifactError, BadInput

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


TRAINED_ON = 1 << 20
"""Vectors that clusters and codes are found on, at most; FAISS takes 256 a cluster."""
PART = 1 << 17
"""Vectors that are added at once."""


class Kind(Enum):
    """Kinds of index."""

    flat = "flat"
    """Exact."""
    ivf_pq = "ivf_pq"
    """Clusters and 4-bit codes (fast scan), re-ranked by half-precision vectors."""
    hnsw = "hnsw"
    """A graph over 8-bit vectors."""


def build_index(item_vectors: Floats, kind: Kind = Kind.flat) -> Any:
    """Index the rows from 1 of ``item_vectors`` [R, V]; row 0, the unknown item, is left out.

    The vectors are read in parts, so that they may be memory-mapped.

    Raises:
        BadInput: too few vectors for the kind of index.
    """
    num_items, dim = len(item_vectors) - 1, item_vectors.shape[1]
    factory = _factory(kind, num_items, dim)
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    _set_effort(index, kind)
    if not index.is_trained:
        sample = np.linspace(1, num_items, min(num_items, TRAINED_ON)).astype(np.int64)
        index.train(_part(item_vectors, sample))
    for start in range(1, num_items + 1, PART):
        index.add(_part(item_vectors, slice(start, min(start + PART, num_items + 1))))
    return index


def _part(vectors: Floats, rows: slice | Ints) -> Floats:
    return np.ascontiguousarray(vectors[rows], dtype=np.float32)


def _factory(kind: Kind, num_items: int, dim: int) -> str:
    if kind is Kind.flat:
        return "Flat"
    if kind is Kind.hnsw:
        return "HNSW32,SQ8"
    clusters = max(1, min(4096, int(4 * np.sqrt(num_items)), num_items // 39))
    if num_items < 1000 or dim % 2:
        raise BadInput(
            f"index=ivf_pq needs at least 1,000 items and an even width; got {num_items} items "
            f"of {dim}. Choose index=flat."
        )
    return f"IVF{clusters},PQ{dim // 2}x4fs,Refine(SQfp16)"


def _set_effort(index: Any, kind: Kind) -> None:
    """How much of an approximate index a search looks at; stored with the index."""
    if kind is Kind.hnsw:
        index.hnsw.efConstruction = 80
        index.hnsw.efSearch = 256
    elif kind is Kind.ivf_pq:
        index.k_factor = 8
        inner = faiss.extract_index_ivf(index)
        inner.nprobe = max(1, inner.nlist // 4)


def search(index: Any, user_vectors: Floats, k: int) -> tuple[Ints, Floats]:
    """Item rows [B, k], best first, and their scores; 0 and NaN where there are fewer."""
    scores, places = index.search(np.ascontiguousarray(user_vectors, dtype=np.float32), k)
    rows = places.astype(np.int64) + 1
    return rows, np.where(rows > 0, scores, np.nan).astype(np.float32)


def save_index(index: Any, path: Path) -> None:
    """Write an index, atomically."""
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def load_index(path: Path) -> Any:
    """Read an index.

    Raises:
        ArtifactError: missing or truncated.
    """
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is not a whole FAISS index: {reason}") from error
