"""An index on disk: a folder of arrays that are memory-mapped, and ``index.json``.

- ``index.json``: what was built, how good it is, and why this kind was chosen
- ``base.faiss``: clusters and codes, or the graph with its codes; not of flat
- ``vectors.npy``: of flat the vectors, of ivf_pq half-precision ones that re-rank
- ``order.npy``: of ivf_pq the row at each position
- ``items/``: the ids of the rows, where they were given
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.dataset import IdType
from feature_repo.contract.errors import ArtifactError
from feature_repo.contract.vocabulary import Vocabulary
from retrieval.index.built import Built, Effort
from retrieval.index.config import Kind

ABOUT, BASE, VECTORS, ORDER, ITEMS = (
    "index.json",
    "base.faiss",
    "vectors.npy",
    "order.npy",
    "items",
)
FORMAT = 1
RESERVOIR = 11
"""FAISS's way of scanning that keeps more candidates than asked for and sorts them once; measured
faster than the one it chooses by itself, for one user (by 20 to 30%) and for 256 (5 to 10%)."""


@dataclass(frozen=True)
class About:
    """What ``index.json`` says."""

    name: str
    """Of this build; a log of changes belongs to one."""
    kind: str
    factory: str
    """FAISS's description of its structure."""
    effort: dict[str, Any]
    recall: float
    """Share of the exact nearest ``k`` items found, over users held back."""
    target_recall: float
    k: int
    num_queries: int
    """Users that ``recall`` was measured on."""
    query_us: float
    """Microseconds a user, one at a time on one core, when it was built."""
    num_items: int
    dim: int
    seconds: float
    """That the build took."""
    num_bytes: int
    """Of all files."""
    faiss: str
    id_type: str | None
    """Of the ids in ``items/``; None where they are the item vocabulary's."""
    choice: str
    """Why this kind, with the numbers it was chosen by."""

    def write(self, folder: Path) -> None:
        """Write ``index.json``."""
        write_json(folder / ABOUT, {"format": FORMAT, **asdict(self)})

    @staticmethod
    def read(folder: Path) -> About:
        """Read ``index.json``.

        Raises:
            ArtifactError: it is missing, or of another format.
        """
        found = read_json(folder / ABOUT)
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise ArtifactError(f"{folder / ABOUT} does not describe an index of format {FORMAT}.")
        try:
            return About(**found)
        except TypeError as error:
            raise ArtifactError(f"{folder / ABOUT} is not whole: {error}.") from error

    def vocabulary(self, folder: Path) -> Vocabulary | None:
        """The ids that were saved with the index."""
        if self.id_type is None:
            return None
        return Vocabulary.load(folder / ITEMS, IdType(self.id_type))


def load_built(folder: Path) -> Built:
    """Memory-map an index with its effort.

    Raises:
        ArtifactError: a file is missing or truncated, or they do not fit each other.
    """
    about = About.read(folder)
    found = open_built(folder, Kind(about.kind))
    _require_whole(folder, about, found)
    return replace(found, effort=Effort(**about.effort), query_us=about.query_us)


def open_built(folder: Path, kind: Kind) -> Built:
    """Memory-map the arrays and codes of an index.

    Raises:
        ArtifactError: a file is missing or truncated.
    """
    if kind is Kind.hnsw:
        return Built(_read(folder / BASE), kind, None)
    vectors = _map(folder / VECTORS)
    if kind is Kind.flat:
        return Built(flat_view(vectors), kind, None, kept=vectors)
    order = _map(folder / ORDER)
    base = _read(folder / BASE)
    if not len(vectors) == len(order) == base.ntotal:
        raise ArtifactError(
            f"The files of {folder} do not fit each other: {base.ntotal} codes, {len(vectors)} "
            f"vectors and {len(order)} rows."
        )
    return Built(refined(base, vectors), kind, order, kept=(base, vectors))


def flat_view(vectors_NV: npt.NDArray[np.float32]) -> Any:
    """An exact index over an array that it does not copy."""
    return viewed(faiss.IndexFlatIP(vectors_NV.shape[1]), vectors_NV)


def refined(base: Any, halves_NV: npt.NDArray[np.float16]) -> Any:
    """``base``, whose findings are re-ranked by half-precision vectors that it does not copy."""
    precise = faiss.IndexScalarQuantizer(
        halves_NV.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    base.implem = RESERVOIR
    index = faiss.IndexRefine(base, viewed(precise, halves_NV))
    return index


def viewed(index: Any, rows: npt.NDArray[Any]) -> Any:
    """``index``, over the memory of ``rows``, which must outlive it."""
    data = rows.view(np.uint8).reshape(-1)
    codes = faiss.MaybeOwnedVectorUInt8
    index.codes = codes.create_view(faiss.swig_ptr(data), data.size, index.codes.owner)
    index.ntotal = len(rows)
    return index


def _read(path: Path) -> Any:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is not a whole FAISS index: {reason}") from error


def _map(path: Path) -> npt.NDArray[Any]:
    try:
        # as a plain array: to take a few places of a memmap costs seven times as much
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a whole array: {error}") from error


def _require_whole(folder: Path, about: About, found: Built) -> None:
    if (found.num_items, found.dim) != (about.num_items, about.dim):
        raise ArtifactError(
            f"The files of {folder} hold {found.num_items} items of width {found.dim}; expected "
            f"{about.num_items} of {about.dim}."
        )
