"""Sets of items that a search may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from feature_repo.contract.errors import BadInput

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
T = TypeVar("T")


class Allowed:
    """Item rows that a search may return; what it is asked for often is kept.

    Make one of a category or of what is in stock, and use it for many searches.
    """

    def __init__(self, which: npt.NDArray[Any]) -> None:
        """Name the items.

        Args:
            which: a mask [R] over item rows, or item rows; row 0 is no item.

        Raises:
            BadInput: neither, or a row below zero.
        """
        which = np.asarray(which)
        if which.ndim != 1 or which.dtype.kind not in "biu":
            raise BadInput(
                "Allowed items must be a mask over rows or an array of rows, of one dimension; got "
                f"{which.dtype} of shape {which.shape}."
            )
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else np.unique(which)
        if len(rows) and rows[0] < 0:
            raise BadInput(f"Item rows are not negative; got {rows[0]}.")
        self.rows: Ints = rows[rows > 0].astype(np.int64, copy=False)
        self._kept: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def contains(self, rows: Ints) -> Bools:
        """[N] whether each row is allowed."""
        if not len(self.rows):
            return np.zeros(len(rows), dtype=np.bool_)
        place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.asarray(self.rows[place] == rows)

    def of_table(self, num_items: int) -> Ints:
        """The allowed rows up to ``num_items``."""
        return self.rows[: np.searchsorted(self.rows, num_items, side="right")]

    def kept(self, key: int, make: Callable[[], T]) -> T:
        """What ``make`` returns; the next call with the same ``key`` returns it again."""
        found = self._kept
        if found is None or found[0] != key:
            found = self._kept = key, make()
        return cast(T, found[1])


def pack(places: Ints, size: int) -> Bits:
    """[ceil(size / 8)] a bitmap in which ``places`` are set, lowest bit first."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[places] = True
    return np.packbits(mask, bitorder="little")
