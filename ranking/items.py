"""The items that a ranker scores, by row of the vocabulary that candidates are named in.

R rows; row 0 is the item that nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.columns import column_of
from feature_repo.contract.encoding import Encoded, Encoder, numeric_values, query_times_s
from feature_repo.contract.pairs import PairCatalogue
from feature_repo.contract.schema import Encoding, Entity
from feature_repo.contract.vocabulary import Vocabulary

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
    group_share: dict[str, Floats]
    """Group -> [R] the item's group's share of all recent buyers; NaN where unknown."""
    share_of_group: dict[str, Floats]
    """Group -> [R] the item's share of its group's recent buyers; NaN where unknown."""

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
        buyers = values.get(BUYERS, np.full(len(padded), np.nan, dtype=np.float32))[place]
        shares = {group: _shares(codes, buyers) for group, codes in catalogue.codes.items()}
        return ItemSide(
            vocabulary,
            catalogue,
            place,
            encoder.encode(padded, Entity.ITEM, times),
            values,
            {group: share for group, (share, _) in shares.items()},
            {group: own for group, (_, own) in shares.items()},
        )


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
