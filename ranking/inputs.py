"""From requests and their candidates to the inputs of a ranker: one path, trained and served by.

B requests, I items, N candidates of all requests, F numeric columns, C crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.encoding import Encoded, Encoder
from feature_repo.contract.schema import Encoding, Entity
from ranking.crosses import Crosses
from ranking.features import BUCKETS, Requests, numeric_features, numeric_matrix
from ranking.numeric import Columns, NumericEncoder
from ranking.wide_deep import PairInputs, WideDeepConfig, Widths

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
QUANTILES = "quantiles.json"
SINGLE = (Encoding.CATEGORICAL, Encoding.NUMERIC)
"""Encodings that give an example one row, which a cross can read."""


@dataclass(frozen=True)
class Inputs:
    """Encoded candidates of B requests."""

    users: Encoded
    """[B]"""
    user_of: Ints
    """[N] row of ``users``."""
    item_of: Ints
    """[N] row of the item side."""
    columns: Columns
    """[N, F]"""


@dataclass(frozen=True)
class InputEncoder:
    """Everything that decides a ranker's inputs; saved beside its weights."""

    encoder: Encoder
    numeric: NumericEncoder
    crosses: Crosses
    sources: tuple[str, ...]
    """Of the candidates that the ranker was trained on, in their order."""
    half_life_days: float

    @staticmethod
    def of(
        encoder: Encoder,
        numeric: NumericEncoder,
        config: WideDeepConfig,
        sources: tuple[str, ...],
        half_life_days: float,
    ) -> InputEncoder:
        """Lay out the crosses of ``config`` over these features.

        Raises:
            ConfigError: a cross names a feature that there is not.
        """
        columns = numeric_features(sources)
        numeric.require_columns(columns)
        sizes = {feature.name: BUCKETS for feature in columns}
        for entity in (Entity.USER, Entity.ITEM):
            sizes |= {f.name: f.buckets for f in encoder.schema.encoded(entity, *SINGLE)}
        alone = [[feature.name] for feature in columns] if config.one_hot else []
        crosses = Crosses.declare([*alone, *config.crosses], sizes, config.max_cross_rows)
        return InputEncoder(encoder, numeric, crosses, sources, half_life_days)

    def encode(self, user_rows: pa.Table, requests: Requests) -> Inputs:
        """Inputs of the candidates of B user rows, from which ``requests`` was made."""
        return self.encode_matrix(user_rows, requests, numeric_matrix(requests))

    def encode_matrix(self, user_rows: pa.Table, requests: Requests, values_NF: Floats) -> Inputs:
        """As ``encode``, with the numeric matrix at hand."""
        users = self.encoder.encode(user_rows, Entity.USER, requests.now_s)
        columns = self.numeric.encode(values_NF)
        return Inputs(users, requests.user_of, requests.item_of, columns)

    def pair_inputs(
        self, users: Encoded, items: Encoded, user_of: Ints, item_of: Ints, columns: Columns
    ) -> PairInputs:
        """Tensors of N candidates whose users and items are rows of ``users`` and ``items``."""
        codes: dict[str, npt.NDArray[np.integer]] = {
            name: columns.codes[:, index] for index, name in enumerate(self.numeric.names)
        }
        for side, row_of in ((users, user_of), (items, item_of)):
            for name in self.crosses.features:
                if name in side.bags:
                    codes[name] = side.bags[name].values[row_of]
        wide = self.crosses.rows(codes, len(user_of))
        arrays = (user_of, item_of, columns.codes.astype(np.int64), columns.scores, wide)
        return PairInputs(*(torch.from_numpy(array) for array in arrays))

    def keys(self, entity: Entity, without: Sequence[str]) -> tuple[str, ...]:
        """Encoded features of an entity that the deep side reads."""
        return tuple(key for key in self.encoder.keys(entity) if key not in without)

    def widths(self, without: Sequence[str], dims: Mapping[str, int]) -> Widths:
        """Sizes of a network over these inputs; ``dims`` is the width of each feature's table."""
        user, item = (
            sum(dims[key] for key in self.keys(entity, without))
            + len(self.encoder.dense_names(entity))
            for entity in (Entity.USER, Entity.ITEM)
        )
        return Widths(user, item, len(self.numeric.names), BUCKETS, self.crosses.num_rows)

    def save(self, folder: Path) -> None:
        """Write the encoder and the cut points into ``folder``."""
        self.encoder.save(folder / "encoder")
        self.numeric.save(folder / QUANTILES)

    @staticmethod
    def load(
        folder: Path, config: WideDeepConfig, sources: tuple[str, ...], half_life_days: float
    ) -> InputEncoder:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: a file is missing, or the columns are not those of ``sources``.
        """
        numeric = NumericEncoder.load(folder / QUANTILES)
        encoder = Encoder.load(folder / "encoder")
        return InputEncoder.of(encoder, numeric, config, sources, half_life_days)
