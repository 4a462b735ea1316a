"""Nearest-neighbour libraries behind one face, for ``benchmarks.index``.

Each builds from unit vectors [N, V], saves into a folder, and answers by inner product with places
from 0. Efforts rise; what is not an effort is the library's default or its documentation's advice.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.index import IndexConfig, ItemIndex, Kind, build_index
from retrieval.index.built import Effort

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LINKS, BREADTH = 16, 128
"""Of every graph: links an item, and items looked at to find them."""


class Engine(ABC):
    """A library with one index."""

    package: str

    @abstractmethod
    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """Index the vectors and write the index; ``users`` may be used to tune it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read the index into a process of its own."""

    @abstractmethod
    def efforts(self) -> Iterator[Any]:
        """From little to much."""

    @abstractmethod
    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """[B, k] places of the nearest."""

    def version(self) -> str:
        """Of the package."""
        importlib.import_module(self.package)
        return version({"faiss": "faiss-cpu"}.get(self.package, self.package))


class Shoprec(Engine):
    """``retrieval.index``: what ``auto`` chooses, with each effort in turn."""

    package = "faiss"
    kind = Kind.auto

    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """See ``Engine``; with all that a build does: checks, tuning, measured recall."""
        import faiss

        faiss.omp_set_num_threads(threads)
        with_unknown = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
        build_index(with_unknown, folder / "index", IndexConfig(kind=self.kind), users)

    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        self.index = ItemIndex.load(folder / "index").built

    def efforts(self) -> Iterator[Any]:
        """See ``Engine``."""
        if self.index.kind is Kind.hnsw:
            yield from (Effort(ef_search=ef) for ef in (100, 130, 170, 220, 300, 400, 600, 900))
            return
        nprobes = (16, 22, 28, 36, 44, 56, 80, 120, 170, 260, 400)
        for nprobe, factor in product(nprobes, (1.5, 2.0, 3.0, 5.0)):
            yield Effort(nprobe=nprobe, k_factor=factor)

    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """See ``Engine``."""
        return self.index.search_at(users, k, effort)[0] - 1


class ShoprecHnsw(Shoprec):
    """``retrieval.index`` with ``index=hnsw``."""

    kind = Kind.hnsw


class Scann(Engine):
    """Google's ScaNN: a tree, anisotropic 4-bit codes, re-ranking."""

    package = "scann"

    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """See ``Engine``; 2,000 leaves: near twice the root, as its documentation advises, and
        better here than 4,000."""
        import scann

        builder = scann.scann_ops_pybind.builder(vectors, 100, "dot_product")
        builder = builder.set_n_training_threads(threads)
        builder = builder.tree(2_000, 40, training_sample_size=250_000)
        searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(200).build()
        target = folder / "scann"
        target.mkdir()
        searcher.serialize(str(target))

    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        import scann

        self.index = scann.scann_ops_pybind.load_searcher(str(folder / "scann"))

    def efforts(self) -> Iterator[Any]:
        """See ``Engine``."""
        yield from product((9, 12, 16, 20, 26, 34, 48, 70, 110), (150, 200, 300))

    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """See ``Engine``."""
        leaves, reordered = effort
        settings = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": reordered}
        if len(users) == 1:
            found, _ = self.index.search(users[0], k, **settings)
            return np.asarray(found[None])
        run = self.index.search_batched if threads == 1 else self.index.search_batched_parallel
        found, _ = run(users, k, **settings)
        return np.asarray(found)


class Graph(Engine):
    """What graphs have in common."""

    def efforts(self) -> Iterator[Any]:
        """See ``Engine``."""
        yield from (100, 130, 170, 220, 300, 400, 550, 800, 1_200)


class Hnswlib(Graph):
    """The reference implementation of HNSW, in float32."""

    package = "hnswlib"

    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """See ``Engine``."""
        import hnswlib

        index = hnswlib.Index("ip", vectors.shape[1])
        index.init_index(len(vectors), M=LINKS, ef_construction=BREADTH)
        index.add_items(vectors, num_threads=threads)
        index.save_index(str(folder / "index"))
        np.save(folder / "dim.npy", vectors.shape[1])

    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        import hnswlib

        self.index = hnswlib.Index("ip", int(np.load(folder / "dim.npy")))
        self.index.load_index(str(folder / "index"))

    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """See ``Engine``."""
        self.index.set_ef(effort)
        found, _ = self.index.knn_query(users, k, num_threads=threads)
        return np.asarray(found).astype(np.int64)


class Usearch(Graph):
    """usearch, in 8-bit integers."""

    package = "usearch"

    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """See ``Engine``."""
        from usearch.index import Index

        index = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="i8",
            connectivity=LINKS,
            expansion_add=BREADTH,
        )
        index.add(np.arange(len(vectors)), vectors, threads=threads)
        index.save(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        from usearch.index import Index

        self.index: Any = Index.restore(str(folder / "index"))

    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """See ``Engine``."""
        self.index.expansion_search = effort
        found = self.index.search(users, k, threads=threads).keys
        return np.asarray(found).reshape(len(users), -1).astype(np.int64)


class Voyager(Graph):
    """Spotify's voyager, in 8-bit floats."""

    package = "voyager"

    def build(self, vectors: Floats, users: Floats, folder: Path, threads: int) -> None:
        """See ``Engine``."""
        import voyager

        index = voyager.Index(
            voyager.Space.InnerProduct,
            vectors.shape[1],
            M=LINKS,
            ef_construction=BREADTH,
            storage_data_type=voyager.StorageDataType.E4M3,
        )
        index.add_items(vectors, num_threads=threads)
        index.save(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """See ``Engine``."""
        import voyager

        self.index = voyager.Index.load(str(folder / "index"))

    def search(self, users: Floats, k: int, effort: Any, threads: int) -> Ints:
        """See ``Engine``."""
        found, _ = self.index.query(users, k, num_threads=threads, query_ef=effort)
        return np.asarray(found).reshape(len(users), -1).astype(np.int64)


ENGINES: dict[str, type[Engine]] = {
    "shoprec": Shoprec,
    "shoprec hnsw": ShoprecHnsw,
    "scann": Scann,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "voyager": Voyager,
}
