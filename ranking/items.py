"""The items that a ranker scores, by row of the vocabulary that candidates are named in.

R rows; row 0 is the item that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.encoding import Encoded, Encoder, numeric_values, query_times_s
from feature_repo.contract.pairs import PairCatalogue
from feature_repo.contract.schema import Encoding, Entity
from feature_repo.contract.vocabulary import Vocabulary
from ranking.derived import ITEM_NUMBERS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BUYERS = "buyers_28d"
"""The item feature that says how many bought it of late."""


@dataclass(frozen=True)
class ItemSide:
    """What ranking knows of items; made once, read by every request."""

    vocabulary: Vocabulary
    """Of the candidates."""
    catalogue: PairCatalogue
    """By row of the vocabulary."""
    place: Ints
    """[R] a vocabulary row's row of ``encoded`` and of ``values``; 0 where it is unknown."""
    encoded: Encoded
    """The item rows, after one row for the unknown item."""
    values: dict[str, Floats]
    """Numeric item feature -> value of each row of ``encoded``; NaN where missing."""
    numbers: Floats
    """[R, K] ``derived.ITEM_NUMBERS`` by row of the vocabulary; NaN where unknown."""

    def number(self, name: str) -> Floats:
        """[R] one of ``derived.ITEM_NUMBERS``."""
        found: Floats = self.numbers[:, ITEM_NUMBERS.index(name)]
        return found

    @staticmethod
    def of(items: pa.Table, vocabulary: Vocabulary, encoder: Encoder) -> ItemSide:
        """Encode item rows once.

        Args:
            items: ``item_id``, the item features of the encoder's schema, and the time as of which
                they hold in ``event_timestamp``.
            vocabulary: of the candidates that will be scored.
            encoder: the ranker's own; it may know other items.
        """
        padded = with_unknown(items)
        times = np.concatenate([np.zeros(1, np.int64), query_times_s(items)])
        place = np.zeros(vocabulary.num_rows, dtype=np.int64)
        place[vocabulary.rows(column_of(items, "item_id"))] = np.arange(1, len(padded))
        place[0] = 0
        values = {
            feature.name: numeric_values(padded, feature, times)
            for feature in encoder.schema.encoded(Entity.ITEM, Encoding.NUMERIC)
        }
        catalogue = PairCatalogue.from_table(items, vocabulary)
        encoded = encoder.encode(padded, Entity.ITEM, times)
        numbers = item_numbers(values, place, catalogue)
        return ItemSide(vocabulary, catalogue, place, encoded, values, numbers)


def item_numbers(values: Mapping[str, Floats], place: Ints, catalogue: PairCatalogue) -> Floats:
    """[R, K] ``ITEM_NUMBERS``; see ``ItemSide`` for the arguments."""
    nothing = np.full(int(place.max(initial=0)) + 1, np.nan, np.float32)

    def of(name: str) -> Floats:
        return values.get(name, nothing)

    buyers = of(BUYERS)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = {
            "gap_usual": of("gap_usual"),
            "first_share": of("first_buyers_28d") / np.maximum(buyers, 1.0),
            "trend_7d": np.log((1.0 + 4.0 * of("buyers_7d")) / (1.0 + buyers)),
            "price_change": np.log(of("price_28d") / of("price_usual")),
        }
    numbers = {name: column[place] for name, column in own.items()}
    for group, codes in catalogue.codes.items():
        numbers[f"all_{group}"], numbers[f"in_{group}"] = _shares(codes, buyers[place])
    return np.stack([numbers[name] for name in ITEM_NUMBERS], axis=1).astype(np.float32)


def _shares(codes_R: npt.NDArray[np.int32], buyers_R: Floats) -> tuple[Floats, Floats]:
    """[R] the group's share of all buyers, and the item's of its group's."""
    if np.isnan(buyers_R).all():
        return buyers_R, buyers_R
    buyers = np.nan_to_num(buyers_R).astype(np.float64)
    totals = np.bincount(codes_R, buyers)[codes_R]
    group = np.where(codes_R > 0, totals / max(buyers.sum(), 1.0), np.nan)
    own = np.where(codes_R > 0, buyers / np.maximum(totals, 1.0), np.nan)
    return group.astype(np.float32), own.astype(np.float32)


def with_unknown(items: pa.Table) -> pa.Table:
    """The table after one row of nulls: the item that nobody knows."""
    nothing = pa.table([pa.nulls(1, field.type) for field in items.schema], items.schema.names)
    return pa.concat_tables([nothing, items])
