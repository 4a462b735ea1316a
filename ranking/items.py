"""The items that a ranker scores, by row of the vocabulary that candidates are named in.

R rows; row 0 is the item that nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract.encoding import (
    Encoded,
    Encoder,
    column_of,
    numeric_values,
    query_times_s,
)
from feature_repo.contract.pairs import PairCatalogue
from feature_repo.contract.schema import Encoding, Entity
from feature_repo.contract.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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
        return ItemSide(
            vocabulary,
            PairCatalogue.from_table(items, vocabulary),
            place,
            encoder.encode(padded, Entity.ITEM, times),
            values,
        )


def with_unknown(items: pa.Table) -> pa.Table:
    """The table after one row of nulls: the item that nobody knows."""
    nothing = pa.table([pa.nulls(1, field.type) for field in items.schema], items.schema.names)
    return pa.concat_tables([nothing, items])
