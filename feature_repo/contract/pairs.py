"""Features of a user and a candidate: the fold's state, read at the time ``now``.

A feature is NaN where it does not exist (an item never bought has no gap). ``pair_kernels`` says
what each one is, and computes them; ``PAIR_FEATURES`` is their schema.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of, writable
from feature_repo.contract.pair_kernels import GROUPS, NAMES, Entries, write_pairs
from feature_repo.contract.schema import Encoding, Entity, Feature
from feature_repo.contract.state import Histories
from feature_repo.contract.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PAIR_FEATURES = tuple(
    Feature(name, Entity.PAIR, "pair", "float32", Encoding.NUMERIC, buckets=24) for name in NAMES
)
"""The schema of the rows of ``pair_values``."""


@dataclass(frozen=True)
class PairCatalogue:
    """What pair features need of the items, by item row; row 0 is the unknown item."""

    codes_GR: npt.NDArray[np.int32]
    """Code of the item's group, of each of ``GROUPS``; 0 where missing."""
    price: Floats
    """[R] present price a unit; NaN where unknown."""

    @staticmethod
    def from_table(items: pa.Table, vocabulary: Vocabulary) -> PairCatalogue:
        """Read item rows (``item_id``, the groups, ``price_28d`` or ``price``)."""
        rows = vocabulary.rows(column_of(items, "item_id"))
        codes = np.zeros((len(GROUPS), vocabulary.num_rows), np.int32)
        for place, group in enumerate(GROUPS[:-1]):
            codes[place, rows] = _codes(items, group)
        codes[:, 0] = 0
        codes[-1] = _crossed(codes[GROUPS.index("brand")], codes[GROUPS.index("subcategory")])
        name = "price_28d" if "price_28d" in items.column_names else "price"
        price = np.full(vocabulary.num_rows, np.nan, dtype=np.float32)
        price[rows] = np.asarray(column_of(items, name).cast(pa.float32()).fill_null(np.nan))
        price[0] = np.nan
        return PairCatalogue(codes, price)

    @property
    def codes(self) -> dict[str, npt.NDArray[np.int32]]:
        """Group -> [R] code of the item's group; 0 where missing."""
        return dict(zip(GROUPS, self.codes_GR, strict=True))


def _codes(items: pa.Table, group: str) -> npt.NDArray[np.int32]:
    """A code of each item row, from 1; 0 where missing."""
    column = column_of(items, group).cast(pa.string()).dictionary_encode()
    return np.asarray(column.indices.fill_null(-1)).astype(np.int32) + 1


def _crossed(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    pairs = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    pairs = np.where((first == 0) | (second == 0), 0, pairs)
    _, codes = np.unique(np.concatenate([[0], pairs]), return_inverse=True)
    return codes[1:].astype(np.int32)


def pair_values(
    histories: Histories,
    user_of: Ints,
    candidate_rows: Ints,
    catalogue: PairCatalogue,
    now_s: Ints,
    half_life_days: float = 56.0,
    found: Floats | None = None,
) -> Floats:
    """[P, N] every pair feature of B users and their candidates; NaN if missing.

    Args:
        histories: of B users.
        user_of: [N] the user of each candidate, from 0; those of one user stand together.
        candidate_rows: [N]
        catalogue: the items.
        now_s: [B] epoch seconds.
        half_life_days: of the decayed counts.
        found: [P, N] is written and returned; None: is made.
    """
    if found is None:
        found = np.empty((len(NAMES), len(candidate_rows)), np.float32)
    found[:] = np.nan
    write_pairs(
        found,
        _entries(histories),
        (writable(user_of, np.int64), writable(candidate_rows, np.int64)),
        writable(catalogue.codes_GR, np.int32),
        writable(catalogue.price, np.float32),
        writable(now_s, np.int64),
        half_life_days,
    )
    return found


def _entries(histories: Histories) -> Entries:
    return Entries(
        writable(histories.offsets, np.int64),
        writable(histories.item_row, np.int64),
        writable(histories.count, np.float32),
        writable(histories.weight, np.float32),
        writable(histories.first_s, np.int64),
        writable(histories.last_s, np.int64),
        writable(histories.gap_sq, np.float32),
        writable(histories.gap_last, np.float32),
    )
