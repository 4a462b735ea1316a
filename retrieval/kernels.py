"""Loops over histories and neighbours, compiled at their first call and kept on disk (Numba).

B users, H entries of their histories, R rows of the item vocabulary, M neighbours an item, U items
of the universe, K candidates a user.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]

_BLOCK = 32


@njit(nogil=True, cache=True)
def _worse(score: float, row: int, other: float, other_row: int) -> bool:
    """Whether an item comes after another one: by score, and the lower row first among equals."""
    return score < other or (score == other and row > other_row)


@njit(nogil=True, cache=True)
def _sink(scores: Floats, rows: Ints, start: int, size: int) -> None:
    """Restore a heap, whose root is its worst item, below a place."""
    place = start
    while True:
        child = 2 * place + 1
        if child >= size:
            return
        if child + 1 < size and _worse(
            scores[child + 1], rows[child + 1], scores[child], rows[child]
        ):
            child += 1
        if not _worse(scores[child], rows[child], scores[place], rows[place]):
            return
        scores[child], scores[place] = scores[place], scores[child]
        rows[child], rows[place] = rows[place], rows[child]
        place = child


@njit(nogil=True, cache=True, fastmath={"nnan", "reassoc"})
def _most(values: Floats) -> float:
    most: float = values[0]
    for at in range(1, len(values)):
        most = max(most, values[at])
    return most


@njit(nogil=True, cache=True)
def best_positive(values: Floats, found_rows: Ints, found_scores: Floats) -> int:
    """Write the best items above zero, best first, and return how many there are.

    Values are looked at in blocks, of which most hold nothing that is good enough.

    Args:
        values: score of each item by its row.
        found_rows: [K] is written.
        found_scores: [K] is written.
    """
    most, size = len(found_rows), 0
    if most == 0:
        return 0
    enough = np.float32(0.0)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        if _most(block) <= enough:
            continue
        for at in range(len(block)):
            value = block[at]
            if value <= enough:  # rows rise, so that of equals the first stays
                continue
            if size < most:
                found_scores[size], found_rows[size] = value, start + at
                size += 1
                if size == most:
                    for root in range(most // 2 - 1, -1, -1):
                        _sink(found_scores, found_rows, root, most)
            else:
                found_scores[0], found_rows[0] = value, start + at
                _sink(found_scores, found_rows, 0, most)
            if size == most:
                enough = found_scores[0]
    if size < most:
        for root in range(size // 2 - 1, -1, -1):
            _sink(found_scores, found_rows, root, size)
    for last in range(size - 1, 0, -1):  # heap sort: the worst goes to the end
        found_scores[0], found_scores[last] = found_scores[last], found_scores[0]
        found_rows[0], found_rows[last] = found_rows[last], found_rows[0]
        _sink(found_scores, found_rows, 0, last)
    return size


@njit(nogil=True, cache=True)
def _add_neighbours(
    values: Floats, history_rows: Ints, worth: Floats, places: Rows, weights: Floats
) -> None:
    for entry in range(len(history_rows)):
        row, mine = history_rows[entry], worth[entry]
        for at in range(places.shape[1]):
            values[places[row, at]] += weights[row, at] * mine
    values[0] = 0.0


@njit(nogil=True, cache=True)
def neighbour_scores(
    history_rows: Ints, worth: Floats, places: Rows, weights: Floats, size: int
) -> Floats:
    """[U] sums over one history of the entries' worth times the weight of each neighbour.

    Args:
        history_rows: [H]
        worth: [H]
        places: [R, M] the neighbours as places in the universe, of which 0 is the padding.
        weights: [R, M]
        size: U.
    """
    values = np.zeros(size, np.float32)
    _add_neighbours(values, history_rows, worth, places, weights)
    return values


@njit(nogil=True, cache=True)
def best_neighbours(
    history: tuple[Ints, Ints, Floats],
    places: Rows,
    weights: Floats,
    universe: Ints,
    left_out: tuple[Ints, Ints],
    k: int,
) -> tuple[Ints, Floats]:
    """[B, K] rows, 0 where there are fewer, and scores: the items that are nearest to histories.

    Args:
        history: [B + 1] offsets, [H] rows, [H] worth.
        places: see ``neighbour_scores``.
        weights: see ``neighbour_scores``.
        universe: [U] item rows, rising.
        left_out: [B + 1] offsets and places in the universe that are not wanted.
        k: K.
    """
    offsets, history_rows, worth = history
    bounds, unwanted = left_out
    num_users = len(offsets) - 1
    rows = np.zeros((num_users, k), np.int64)
    scores = np.full((num_users, k), np.nan, np.float32)
    values, best = np.empty(len(universe), np.float32), np.empty(k, np.float32)
    for user in range(num_users):
        start, stop = offsets[user], offsets[user + 1]
        values[:] = 0.0
        _add_neighbours(values, history_rows[start:stop], worth[start:stop], places, weights)
        for at in range(bounds[user], bounds[user + 1]):
            values[unwanted[at]] = 0.0
        size = best_positive(values, rows[user], best)
        for at in range(size):
            rows[user, at], scores[user, at] = universe[rows[user, at]], best[at]
    return rows, scores


@njit(nogil=True, cache=True)
def first_unknown(
    rows: Ints, scores: Floats, known: tuple[Ints, Ints], size: int, k: int
) -> tuple[Ints, Floats]:
    """[B, K] rows, 0 where there are fewer, and scores: the first items that a user does not know.

    Args:
        rows: [B, W] item rows, best first; 0 pads.
        scores: [B, W]
        known: [B + 1] offsets, and item rows that are left out.
        size: R.
        k: K.
    """
    bounds, known_rows = known
    num_users = len(bounds) - 1
    found = np.zeros((num_users, k), np.int64)
    found_scores = np.full((num_users, k), np.nan, np.float32)
    marked = np.zeros(size, np.bool_)
    marked[0] = True
    for user in range(num_users):
        mine = known_rows[bounds[user] : bounds[user + 1]]
        for at in range(len(mine)):
            marked[mine[at]] = True
        filled = 0
        for at in range(rows.shape[1]):
            if filled == k:
                break
            if not marked[rows[user, at]]:
                found[user, filled], found_scores[user, filled] = rows[user, at], scores[user, at]
                filled += 1
        for at in range(len(mine)):
            marked[mine[at]] = mine[at] == 0
    return found, found_scores
