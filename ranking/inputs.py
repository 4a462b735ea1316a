"""From requests and their candidates to the inputs of a ranker: one path, trained and served by.

B requests, I items, N candidates of all requests, F numeric columns, C crosses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.encoding import Encoded, Encoder, Quantiles
from feature_repo.contract.schema import Encoding, Entity
from ranking.crosses import Crosses
from ranking.features import (
    BUCKETS,
    Codes,
    NumericEncoder,
    Requests,
    numeric_features,
    numeric_matrix,
)
from ranking.wide_deep import PairInputs, WideDeepConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
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
    codes: Codes
    """[N, F] buckets of the numeric columns."""


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
        codes = self.numeric.codes(values_NF)
        return Inputs(users, requests.user_of, requests.item_of, codes)

    def pair_inputs(
        self, users: Encoded, items: Encoded, user_of: Ints, item_of: Ints, codes_NF: Codes
    ) -> PairInputs:
        """Tensors of N candidates whose users and items are rows of ``users`` and ``items``."""
        codes: dict[str, npt.NDArray[np.integer]] = {
            name: codes_NF[:, column] for column, name in enumerate(self.numeric.names)
        }
        for side, row_of in ((users, user_of), (items, item_of)):
            for name in self.crosses.features:
                if name in side.bags:
                    codes[name] = side.bags[name].values[row_of]
        wide = self.crosses.rows(codes, len(user_of))
        arrays = (user_of, item_of, codes_NF.astype(np.int64), wide)
        return PairInputs(*(torch.from_numpy(array) for array in arrays))

    def keys(self, entity: Entity, without: Sequence[str]) -> tuple[str, ...]:
        """Encoded features of an entity that the deep side reads."""
        return tuple(key for key in self.encoder.keys(entity) if key not in without)

    def save(self, folder: Path) -> None:
        """Write the encoder and the cut points into ``folder``."""
        self.encoder.save(folder / "encoder")
        edges = {name: cuts.tolist() for name, cuts in self.numeric.quantiles.edges.items()}
        write_json(folder / "quantiles.json", {"names": list(edges), "edges": edges})

    @staticmethod
    def load(
        folder: Path, config: WideDeepConfig, sources: tuple[str, ...], half_life_days: float
    ) -> InputEncoder:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: a file is missing, or the columns are not those of ``sources``.
        """
        saved = read_json(folder / "quantiles.json")
        edges = {name: np.array(saved["edges"][name], np.float32) for name in saved["names"]}
        numeric, encoder = NumericEncoder(Quantiles(edges)), Encoder.load(folder / "encoder")
        return InputEncoder.of(encoder, numeric, config, sources, half_life_days)
