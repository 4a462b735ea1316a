"""Built indexes on GPUs: copied to each, or divided among them.

FAISS's GPU indexes may not be searched by two threads at once, so each card has a thread of its
own, and searches wait for it in line. They know nothing of filters: what is allowed or hidden is
searched on the CPU (``ItemIndex``).

``ItemIndex.load`` takes exact search where the cards hold the vectors: scanning 10 million of 64
half-precision numbers reads 1.3 GB, less than a millisecond of an H100's memory for a whole batch.

Flat and ivf_pq indexes can be moved; ivf_pq without its re-ranking, as ``GpuIndexIVFPQ`` with 8-bit
codes, or as a CAGRA graph where FAISS was built with cuVS. No machine with a GPU was at hand when
this was written: what runs here was checked by types and by the tests that need none, and the
tests that need a card skip without one.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from feature_repo.contract.errors import BadInput
from retrieval.index.vectors import ItemVectors

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BYTES_AN_ITEM = 16
"""Beside the vector or its code: the id, and what the lists have in reserve."""


class GpuKind(Enum):
    """Structures on a GPU."""

    flat = "flat"
    """Exact."""
    ivf_pq = "ivf_pq"
    """Clusters and codes."""
    cagra = "cagra"
    """A graph; needs FAISS with cuVS."""


class Spread(Enum):
    """How several GPUs hold an index."""

    replicated = "replicated"
    """Each has all of it, and answers some of the users."""
    sharded = "sharded"
    """Each has some of the items, and answers all users."""


def num_gpus() -> int:
    """Cards that FAISS can use; 0 for its CPU build."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def has_cagra() -> bool:
    """Whether FAISS was built with cuVS."""
    return hasattr(faiss, "GpuIndexCagra")


def choose_gpu(
    num_items: int, dim: int, gpus: int, card_bytes: float, *, cagra: bool
) -> tuple[GpuKind, Spread]:
    """The fastest structure that fits the cards, copied to each if one card can hold it all.

    Args:
        num_items: N.
        dim: width V.
        gpus: number of cards.
        card_bytes: memory of a card that the index may take.
        cagra: whether there is CAGRA.

    Raises:
        BadInput: there is no card, or all together are too small.
    """
    if gpus < 1:
        raise BadInput("There is no GPU that FAISS can use; search on the CPU.")
    bytes_an_item = {GpuKind.cagra: 4 * dim + 4 * 64, GpuKind.flat: 4 * dim, GpuKind.ivf_pq: dim}
    order = [GpuKind.cagra, GpuKind.flat, GpuKind.ivf_pq]
    for kind in order if cagra else order[1:]:
        needed = num_items * (bytes_an_item[kind] + BYTES_AN_ITEM)
        if needed <= card_bytes:
            return kind, Spread.replicated
        if needed <= card_bytes * gpus and kind is not GpuKind.cagra:
            return kind, Spread.sharded
    raise BadInput(
        f"{num_items:,} items of width {dim} do not fit {gpus} GPUs of {card_bytes / 1e9:.0f} GB, "
        "not even as codes; use more cards, or the CPU."
    )


MOST_K = 2048
"""Longest list that FAISS finds on a GPU."""
SHARE = 0.5
"""Of a card's free memory that an index may take."""


def exact_on_gpus(vectors: ItemVectors) -> GpuIndex | None:
    """Exact search on the cards there are; None where FAISS has none, or they do not hold it."""
    gpus = num_gpus()
    if gpus < 1:
        return None
    try:
        free = min(torch.cuda.mem_get_info(card)[0] for card in range(gpus))
        kind, spread = choose_gpu(
            vectors.num_items, vectors.dim, gpus, SHARE * float(free), cagra=False
        )
        if kind is not GpuKind.flat:
            return None
        found = GpuIndex(vectors, kind, spread)
    except (BadInput, RuntimeError, AssertionError) as error:
        log.warning("The index stays on the CPU: %s", error)
        return None
    log.info("Index: exact search of %d items on %d GPUs, %s.", len(found), gpus, spread.value)
    return found


class GpuIndex:
    """An index on one or more GPUs, searched by one thread after the other."""

    def __init__(self, vectors: ItemVectors, kind: GpuKind, spread: Spread, nprobe: int = 64):
        """Build on the CPU (CAGRA: on the first card) and move it.

        Raises:
            BadInput: there is no GPU, or no CAGRA in this build of FAISS.
        """
        if num_gpus() < 1:
            raise BadInput("There is no GPU that FAISS can use; search on the CPU.")
        if kind is GpuKind.cagra and not has_cagra():
            raise BadInput("This FAISS has no CAGRA; install faiss-gpu-cuvs.")
        self._resources = [faiss.StandardGpuResources() for _ in range(num_gpus())]
        self._index = self._moved(vectors, kind, spread)
        self._num_items = vectors.num_items
        if kind is GpuKind.ivf_pq:
            faiss.GpuParameterSpace().set_index_parameter(self._index, "nprobe", nprobe)
        self._line = ThreadPoolExecutor(1, thread_name_prefix="gpu-index")

    def __len__(self) -> int:
        """Items that can be found."""
        return self._num_items

    def search(self, users_BV: Floats, k: int) -> tuple[Ints, Floats]:
        """[B, k] rows, best first, and their inner products; 0 and -inf where none was found."""
        found: Future[tuple[Floats, Ints]] = self._line.submit(self._index.search, users_BV, k)
        scores, places = found.result()
        return places + 1, scores

    def close(self) -> None:
        """End the thread."""
        self._line.shutdown()

    def _moved(self, vectors: ItemVectors, kind: GpuKind, spread: Spread) -> Any:
        if kind is GpuKind.cagra:
            index = faiss.GpuIndexCagra(self._resources[0], vectors.dim, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors.take(np.arange(1, vectors.num_items + 1)))
            return index
        options = faiss.GpuMultipleClonerOptions()
        options.shard = spread is Spread.sharded
        options.useFloat16 = True
        return faiss.index_cpu_to_gpus_list(
            _on_cpu(vectors, kind), options, list(range(num_gpus()))
        )


def _on_cpu(vectors: ItemVectors, kind: GpuKind) -> Any:
    clusters = max(1, int(2 ** np.round(np.log2(4 * np.sqrt(vectors.num_items)))))
    factory = "Flat" if kind is GpuKind.flat else f"IVF{clusters},PQ{vectors.dim // 2}"
    index = faiss.index_factory(vectors.dim, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors.sample(64 * clusters, 0))
    for _, chunk in vectors.chunks():
        index.add(chunk)
    return index
