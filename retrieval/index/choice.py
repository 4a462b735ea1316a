"""Choose the kind of index by what is measured and reckoned, and say why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from retrieval.index.config import IndexConfig, Kind
from retrieval.index.structure import FEWEST, LINKS
from retrieval.index.tuning import one_thread
from retrieval.index.vectors import ItemVectors

ENOUGH = 1 << 16
"""Vectors that exact search is timed on."""


@dataclass(frozen=True)
class Choice:
    """A kind of index, and why."""

    kind: Kind
    reason: str


def choose(vectors: ItemVectors, config: IndexConfig, *, has_users: bool) -> Choice:
    """The kind that was asked for, or for ``auto`` the simplest that is fast and fits.

    Exact search while it answers a user in time. Else clusters with codes. Else, where those need
    more items or an even width, the graph, if memory has room for it.
    """
    if config.kind is not Kind.auto:
        return Choice(config.kind, f"index={config.kind.value} was asked for.")
    size = f"{vectors.num_items:,} items of width {vectors.dim}"
    exact_ms, room = exact_milliseconds(vectors), memory_bytes(config)
    costs = f"exact search takes {exact_ms:.2g} ms a user on one core"
    limit = f"index.max_exact_ms={config.max_exact_ms:g}"
    needed = reckoned_bytes(Kind.flat, vectors)
    if exact_ms <= config.max_exact_ms and needed <= room:
        return Choice(Kind.flat, f"flat for {size}: {costs}, within {limit}.")
    if not has_users:
        return Choice(
            Kind.flat, f"flat for {size}: no users were given to measure another kind's recall on."
        )
    slow = f"{costs}, above {limit}"
    if needed > room:
        slow = f"its vectors take {needed / 1e9:.1f} GB of the {room / 1e9:.1f} GB there are"
    if vectors.num_items >= FEWEST and vectors.dim % 2 == 0:
        return Choice(Kind.ivf_pq, f"ivf_pq for {size}: {slow}.")
    graph = reckoned_bytes(Kind.hnsw, vectors)
    if graph <= room:
        return Choice(
            Kind.hnsw,
            f"hnsw for {size}: {slow}; ivf_pq needs {FEWEST:,} items and an even width.",
        )
    return Choice(Kind.flat, f"flat for {size}: {slow}, and no other kind fits.")


def exact_milliseconds(vectors: ItemVectors) -> float:
    """Milliseconds of exact search for one user on one core, reckoned from a stretch of items."""
    stretch = vectors.take(np.arange(1, min(vectors.num_items, ENOUGH) + 1))
    index = faiss.IndexFlatIP(vectors.dim)
    index.add(stretch)
    k = min(100, len(stretch))
    with one_thread():
        index.search(stretch[:1], k)
        started = time.thread_time()
        for place in range(8):
            index.search(stretch[place : place + 1], k)
    return (time.thread_time() - started) / 8 * 1e3 * vectors.num_items / len(stretch)


def reckoned_bytes(kind: Kind, vectors: ItemVectors) -> int:
    """Bytes that an index holds, memory-mapped ones included."""
    width = vectors.dim
    an_item = {
        Kind.flat: 4 * width,
        Kind.ivf_pq: width // 4 + 8 + 2 * width + 8,
        Kind.hnsw: width + 4 * 2 * LINKS + 12,
    }[kind]
    return an_item * vectors.num_items


def memory_bytes(config: IndexConfig) -> float:
    """The memory to plan for: what is asked for, or half of what the machine has free."""
    if config.memory_gb is not None:
        return config.memory_gb * 1e9
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(line for line in lines if line.startswith("MemAvailable"))
    return int(free.split()[1]) * 1024 / 2
