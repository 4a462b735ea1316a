"""Build the files of each kind of index from vectors that are read a stretch at a time.

What is held at once: the codes (of ivf_pq and hnsw), a sample to find clusters on, and a stretch
of vectors; never all vectors.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from feature_repo.contract.errors import BadInput
from retrieval.index.config import Kind
from retrieval.index.files import BASE, ORDER, VECTORS
from retrieval.index.vectors import CHUNK, ItemVectors

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

POINTS = 64
"""Vectors a cluster that clusters are found on."""
ROUNDS = 8
"""Of k-means."""
MOST, MANY = 8_192, 1_024
"""Clusters that there are at most, and from which on codes find the nearest of them."""
FEWEST = 1_000
"""Items from which on there are clusters of them."""
LINKS, BREADTH = 16, 80
"""Of the graph: neighbours of an item (twice as many on the ground floor), and items that are
looked at to find them."""


def write_structure(folder: Path, vectors: ItemVectors, kind: Kind, seed: int) -> str:
    """Write an index's arrays and codes into ``folder``; return FAISS's name of the structure.

    Raises:
        BadInput: too few vectors for the kind of index, or of an odd width.
    """
    match kind:
        case Kind.flat:
            _write_flat(folder, vectors)
            return "Flat"
        case Kind.ivf_pq:
            return _write_ivf(folder, vectors, seed)
        case Kind.hnsw:
            return _write_hnsw(folder, vectors, seed)
        case _:
            raise BadInput(f"{kind} is not a kind that can be built; choose one first.")


def num_clusters(num_items: int) -> int:
    """A power of two near four times the square root, of at least ``POINTS`` / 2 items each."""
    wanted = min(4 * np.sqrt(num_items), num_items / (POINTS / 2), MOST)
    return int(2 ** np.round(np.log2(max(wanted, 1))))


def _write_flat(folder: Path, vectors: ItemVectors) -> None:
    shape = (vectors.num_items, vectors.dim)
    written = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, shape)
    for first, chunk in vectors.chunks():
        written[first - 1 : first - 1 + len(chunk)] = chunk
    written.flush()


def _write_hnsw(folder: Path, vectors: ItemVectors, seed: int) -> str:
    index = faiss.index_factory(vectors.dim, f"HNSW{LINKS},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BREADTH
    index.train(vectors.sample(1 << 18, seed))
    with _bar(vectors, "graph") as bar:
        for _, chunk in vectors.chunks():
            index.add(chunk)
            bar.update(len(chunk))
    faiss.write_index(index, str(folder / BASE))
    return f"HNSW{LINKS},SQ8"


def _write_ivf(folder: Path, vectors: ItemVectors, seed: int) -> str:
    if vectors.num_items < FEWEST or vectors.dim % 2:
        raise BadInput(
            f"index=ivf_pq needs at least {FEWEST:,} items and an even width; got "
            f"{vectors.num_items} items of {vectors.dim}. Choose index=flat."
        )
    clusters, codes = num_clusters(vectors.num_items), vectors.dim // 2
    factory = f"IVF{clusters},PQ{codes}x4"
    index = faiss.index_factory(vectors.dim, factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = seed + 1, ROUNDS
    index.cp.max_points_per_centroid = POINTS
    index.train(vectors.sample(POINTS * clusters, seed))
    coarse = _coarse(index.quantizer, codes)
    cluster_of = _assign(coarse, vectors)
    order = np.argsort(cluster_of, kind="stable").astype(np.int32) + np.int32(1)
    np.save(folder / ORDER, order)
    _fill(index, folder, vectors, order, cluster_of)
    packed = faiss.IndexIVFPQFastScan(index)
    packed.quantizer = coarse
    faiss.write_index(packed, str(folder / BASE))
    return f"{factory}fsr,Refine(SQfp16)"


def _coarse(centres: Any, codes: int) -> Any:
    """What finds the clusters nearest to a user: of many, by 4-bit codes, the best exactly."""
    if centres.ntotal < MANY:
        return centres
    quick = faiss.IndexPQFastScan(centres.d, codes, 4, faiss.METRIC_INNER_PRODUCT)
    vectors = centres.reconstruct_n(0, centres.ntotal)
    quick.train(vectors)
    quick.add(vectors)
    found = faiss.IndexRefineFlat(quick, faiss.swig_ptr(vectors))
    found.k_factor = 2
    return found


def _assign(quantizer: Any, vectors: ItemVectors) -> npt.NDArray[np.int32]:
    """[N] the cluster of each row from 1: the nearest of the few that codes find."""
    closely = faiss.IndexRefineSearchParameters(k_factor=16)
    parameters = closely if isinstance(quantizer, faiss.IndexRefine) else None
    found = np.empty(vectors.num_items, dtype=np.int32)
    with _bar(vectors, "clusters") as bar:
        for first, chunk in vectors.chunks():
            found[first - 1 : first - 1 + len(chunk)] = quantizer.search(
                chunk, 1, params=parameters
            )[1][:, 0]
            bar.update(len(chunk))
    return found


def _fill(
    index: Any,
    folder: Path,
    vectors: ItemVectors,
    order: npt.NDArray[np.int32],
    cluster_of: npt.NDArray[np.int32],
) -> None:
    """Add the codes, and write the half-precision vectors, position by position."""
    shape = (vectors.num_items, vectors.dim)
    halves = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float16, shape)
    with _bar(vectors, "codes") as bar:
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK].astype(np.int64)
            chunk = vectors.take(rows)
            halves[start : start + len(rows)] = chunk
            places = np.arange(start, start + len(rows))
            clusters = cluster_of[rows - 1].astype(np.int64)
            index.add_core(
                len(rows), faiss.swig_ptr(chunk), faiss.swig_ptr(places), faiss.swig_ptr(clusters)
            )
            bar.update(len(rows))
    halves.flush()


def _bar(vectors: ItemVectors, what: str) -> tqdm[Any]:
    return tqdm(
        total=vectors.num_items, desc=what, disable=None, leave=False, unit_scale=True, unit="item"
    )
