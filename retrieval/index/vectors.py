"""Item vectors in parts, read a stretch at a time, and the exact nearest of users among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import BadInput

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CHUNK = 1 << 16
"""Vectors that are held at once."""


@dataclass(frozen=True)
class ItemVectors:
    """[R, V] vectors of item rows; row 0, the unknown item, is no item."""

    parts: tuple[npt.NDArray[Any], ...]
    """[R1, V], [R2, V], ...: one after another the rows from 0; may be memory-mapped."""

    @staticmethod
    def of(found: ItemVectors | npt.NDArray[Any] | Path | Sequence[Path]) -> ItemVectors:
        """From an array, or ``.npy`` files that are memory-mapped.

        Raises:
            BadInput: the parts are not [Ri, V] of one width.
        """
        if isinstance(found, ItemVectors):
            return found
        if isinstance(found, np.ndarray):
            return ItemVectors((found,))
        paths = [found] if isinstance(found, Path) else found
        return ItemVectors(tuple(np.load(p, mmap_mode="r", allow_pickle=False) for p in paths))

    def __post_init__(self) -> None:
        shapes = [part.shape for part in self.parts]
        if not shapes or any(len(s) != 2 or s[1] != shapes[0][1] for s in shapes):
            raise BadInput(f"Item vectors must be parts of [rows, width], one width; got {shapes}.")
        if self.num_items < 1:
            raise BadInput("There is no item to index: row 0 is the unknown item.")

    @property
    def dim(self) -> int:
        """Width V."""
        return int(self.parts[0].shape[1])

    @property
    def num_items(self) -> int:
        """Rows without row 0."""
        return sum(len(part) for part in self.parts) - 1

    @cached_property
    def _starts(self) -> Ints:
        return np.cumsum([0, *(len(part) for part in self.parts)])

    def take(self, rows: Ints) -> Floats:
        """[N, V] the vectors of rows."""
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for place, part in enumerate(self.parts):
            mine = owner == place
            if mine.any():
                found[mine] = part[rows[mine] - self._starts[place]]
        return found

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, Floats]]:
        """The rows from 1 on in stretches: the first row, and [N, V] its and the next vectors."""
        for start in range(1, self.num_items + 1, size):
            rows = np.arange(start, min(start + size, self.num_items + 1))
            yield start, self.take(rows)

    def sample(self, size: int, seed: int) -> Floats:
        """[N, V] of rows drawn without return, N at most ``size``; in the order of rows."""
        if size >= self.num_items:
            return self.take(np.arange(1, self.num_items + 1))
        drawn = np.random.default_rng(seed).choice(self.num_items, size, replace=False)
        return self.take(np.sort(drawn) + 1)

    def check(self, name_of: Callable[[int], str]) -> None:
        """Refuse vectors that have no direction.

        Args:
            name_of: row -> what a person calls the item.

        Raises:
            BadInput: a vector holds NaN or an infinity, or is zero; the item is named.
        """
        for start, chunk in self.chunks():
            require_directions(chunk, lambda place, start=start: name_of(start + place))  # type: ignore[misc]

    def nearest(self, users_BV: Floats, k: int) -> Ints:
        """[B, k] the rows of highest inner product, best first, by looking at every item."""
        heap = faiss.ResultHeap(len(users_BV), min(k, self.num_items), keep_max=True)
        for start, chunk in self.chunks():
            scores, places = faiss.knn(
                users_BV, chunk, min(heap.k, len(chunk)), faiss.METRIC_INNER_PRODUCT
            )
            heap.add_result(scores, places + start)
        heap.finalize()
        return np.asarray(heap.I, dtype=np.int64)


def require_directions(vectors_NV: Floats, name_of: Callable[[int], str]) -> None:
    """Refuse vectors with NaN or infinities, and zero vectors.

    Raises:
        BadInput: naming the first such item, by its place.
    """
    squares = np.einsum("nv,nv->n", vectors_NV, vectors_NV, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
    if len(wrong):
        place = int(wrong[0])
        what = "is zero" if squares[place] == 0 else "holds NaN or an infinity"
        raise BadInput(
            f"The vector of {name_of(place)} {what}, so it is near to nobody; {len(wrong)} such "
            "vectors were found. Leave the items out, or train the model so that they get one."
        )


def recall(found_BK: Ints, exact_BK: Ints) -> Floats:
    """[B] share of each user's exact nearest items that were found."""
    users = np.arange(len(exact_BK), dtype=np.int64)[:, None]
    span = np.int64(max(found_BK.max(initial=0), exact_BK.max(initial=0)) + 1)
    hit = np.isin(exact_BK + users * span, found_BK + users * span)
    return np.asarray(hit.mean(axis=1, dtype=np.float32))
