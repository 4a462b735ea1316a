"""Loops over the numbers of candidates, compiled at their first call and kept on disk (Numba).

N candidates, F numeric columns, G grid points, H width of the projection.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 256


@njit(nogil=True, cache=True)
def encode_columns(
    values_FN: Floats, points: Floats, codes_of: Codes, lines: Floats
) -> tuple[Codes, Floats]:  # pragma: no cover (compiled)
    """[F, N] buckets and [F, N] normal scores of columns; 0 where missing.

    One search without branches finds the range of a value, which says both. Values that are there
    are first gathered, a block at a time, and take each step of the search together.

    Args:
        values_FN: the columns; NaN where missing.
        points: [F, P] rising ends of ranges, infinite after a column's last; P is a power of two.
        codes_of: [F, P] bucket of the values up to each point, and past the one before.
        lines: [F, P, 3] of their normal scores: where the range begins, the score there, the slope.
    """
    num_columns, size = values_FN.shape
    codes = np.zeros((num_columns, size), np.uint8)
    scores = np.zeros((num_columns, size), np.float32)
    nothing, one, half = np.uint32(0), np.uint32(1), np.uint32(points.shape[1] >> 1)
    low, place = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    known = np.empty(_BLOCK, np.float32)
    for column in range(num_columns):
        ends, code_of, line = points[column], codes_of[column], lines[column]
        for start in range(0, size, _BLOCK):
            number = nothing
            for at in range(start, min(start + _BLOCK, size)):
                value = values_FN[column, at]
                known[number], place[number] = value, at
                number += np.uint32(value == value)  # false for NaN alone
            low[:] = 0
            step = half
            while step:
                for at in range(nothing, number):
                    above = low[at] + step
                    low[at] = above if ends[above - one] < known[at] else low[at]
                step >>= one
            for at in range(nothing, number):
                found, own = low[at], place[at]
                codes[column, own] = code_of[found]
                score, slope = line[found, 1], line[found, 2]
                if slope != 0.0:  # nor may the value be infinite
                    score += slope * (known[at] - line[found, 0])
                scores[column, own] = score
    return codes, scores


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def add_vectors(
    found: Floats,
    codes: Codes,
    own: tuple[Floats, Floats],
    rows: tuple[Ints, Ints],
    vectors: Floats,
) -> None:  # pragma: no cover (compiled)
    """Add to [N, H] the users' part, the items', and a vector for each bucket that is not missing.

    Four vectors are added at a time, so that the sum is read and written once for all of them.

    Args:
        found: [N, H] is added to.
        codes: [F, N] buckets.
        own: the users' part [B, H], and the items'.
        rows: [N] of each.
        vectors: [F, buckets, H] what a bucket adds to that of a missing value, which is zero.
    """
    num_columns, size = codes.shape
    width = found.shape[1]
    users, items = own
    user_of, item_of = rows
    table = vectors.reshape(-1, width)
    num_buckets = vectors.shape[1]
    chosen = np.zeros(num_columns + 4, np.int64)
    for place in range(size):
        mine, user, item = found[place], users[user_of[place]], items[item_of[place]]
        for at in range(width):
            mine[at] += user[at] + item[at]
        number = 0
        for column in range(num_columns):
            chosen[number] = column * num_buckets + codes[column, place]
            number += codes[column, place] != 0
        chosen[number : number + 3] = 0
        for start in range(0, number, 4):
            first, second = table[chosen[start]], table[chosen[start + 1]]
            third, fourth = table[chosen[start + 2]], table[chosen[start + 3]]
            for at in range(width):
                mine[at] += first[at] + second[at] + third[at] + fourth[at]
