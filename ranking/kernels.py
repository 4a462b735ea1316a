"""Loops over the numbers of candidates, compiled at their first call and kept on disk (Numba).

N candidates, F numeric columns, G grid points, H width of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Codes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@njit(nogil=True, cache=True)
def encode_columns(
    values_FN: Floats, cuts: Floats, grid: Doubles, normal: Doubles, starts: Ints
) -> tuple[Codes, Floats]:  # pragma: no cover (compiled)
    """[F, N] buckets and [F, N] normal scores of columns; 0 where missing.

    Counting the points below a value, all of them, is faster than to branch between them.

    Args:
        values_FN: the columns; NaN where missing.
        cuts: [F, C] rising cut points, infinite after a column's last.
        grid: [F, G + 1] rising values at which a column's normal score is known; the last one is
            repeated to the end.
        normal: [F, G + 1] those scores; linear between two values, and outside as at the end.
        starts: [F, C + 2] number of grid values up to those of each bucket, and to the last cut.
    """
    num_columns, size = values_FN.shape
    codes = np.zeros((num_columns, size), np.uint8)
    scores = np.zeros((num_columns, size), np.float32)
    num_cuts = cuts.shape[1]
    for column in range(num_columns):
        own_cuts, own_grid, own_normal = cuts[column], grid[column], normal[column]
        for place in range(size):
            value = values_FN[column, place]
            if np.isnan(value):
                continue
            code = 1
            for at in range(num_cuts):
                code += own_cuts[at] < value
            codes[column, place] = code
            above = starts[column, code]
            for at in range(starts[column, code], starts[column, code + 1]):
                above += own_grid[at] <= value
            below = max(above - 1, 0)
            run = own_grid[above] - own_grid[below]
            score = own_normal[below]
            if run > 0.0:
                score += (own_normal[above] - score) / run * (value - own_grid[below])
            scores[column, place] = score
    return codes, scores


BLOCK = 16
"""Candidates whose projections stay in the fastest cache, with one column's vectors."""


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def project(
    codes: Codes,
    scores: Floats,
    own: tuple[Floats, Floats],
    rows: tuple[Ints, Ints],
    vectors: Floats,
    slopes: Floats,
) -> Floats:  # pragma: no cover (compiled)
    """[N, H] the projection of candidates: the user's part, the item's, and the columns'.

    Args:
        codes: [F, N] buckets.
        scores: [F, N] normal scores.
        own: the users' part [B, H], with what all columns add where they are missing; the items'.
        rows: [N] of each.
        vectors: [F, buckets, H] what a bucket adds to that of a missing value.
        slopes: [F, H] what a normal score of 1 adds.
    """
    num_columns, size = codes.shape
    width = slopes.shape[1]
    users, items = own
    user_of, item_of = rows
    found = np.empty((size, width), np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        for place in range(start, stop):
            user, item = user_of[place], item_of[place]
            for at in range(width):
                found[place, at] = users[user, at] + items[item, at]
        for column in range(num_columns):
            for place in range(start, stop):
                code, score = codes[column, place], scores[column, place]
                if code:
                    for at in range(width):
                        found[place, at] += vectors[column, code, at] + score * slopes[column, at]
    return found


def beside(columns: Sequence[npt.NDArray[Any]], fill: float | None = None) -> Doubles:
    """[F, longest + 1] arrays as rows of one, filled up with a number or with their own last."""
    longest = 1 + max((len(column) for column in columns), default=0)
    rows = np.empty((len(columns), longest))
    for row, column in zip(rows, columns, strict=True):
        row[: len(column)] = column
        row[len(column) :] = column[-1] if fill is None else fill
    return rows
