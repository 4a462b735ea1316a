"""From requests and their candidates to the inputs of a ranker: one path, trained and served by.

B requests, I items, N candidates of all requests, F numeric columns, C crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feature_repo.contract.columns import AnyRows
from feature_repo.contract.encoding import Encoded, Encoder
from feature_repo.contract.schema import Encoding, Entity, Feature, Schema
from ranking.crosses import Crosses
from ranking.features import Requests, numeric_features, numeric_matrix
from ranking.items import ItemSide
from ranking.network import NetworkConfig, PairInputs, SideInputs, Widths
from ranking.numeric import Codes, Columns, NumericEncoder

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TABLES = (Encoding.CATEGORICAL, Encoding.BAG)
"""Encodings whose features are read from embedding tables; numeric ones are columns here."""


@dataclass(frozen=True)
class Side:
    """Encoded users, or items."""

    encoded: Encoded
    columns: Columns
    """Their numeric features."""

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, index: Ints) -> Side:
        """Some of them, in the order of ``index``."""
        return Side(self.encoded.take(index), self.columns.take(index))


@dataclass(frozen=True)
class Inputs:
    """Encoded candidates of B requests."""

    users: Side
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
    numeric: Mapping[Entity, NumericEncoder]
    """Of users, of items, and of pairs (``ranking.features``)."""
    crosses: Crosses
    sources: tuple[str, ...]
    """Of the candidates that the ranker was trained on, in their order."""
    half_life_days: float

    @staticmethod
    def fit(
        encoder: Encoder,
        requests: Requests,
        values_NF: Floats,
        chosen: Ints,
        config: NetworkConfig,
    ) -> InputEncoder:
        """Find cut points on some candidates, and lay out the crosses of ``config``.

        Args:
            encoder: of ids, categorical features and bags.
            requests: of which ``values_NF`` is the numeric matrix.
            values_NF: see ``ranking.features.numeric_matrix``.
            chosen: candidates on which cut points are found, for user and item features too.
            config: which crosses there are.

        Raises:
            ConfigError: a cross names a feature that there is not.
        """
        sources = requests.candidates.sources
        columns = columns_of(encoder, sources)
        numeric = {}
        for entity, read in ((Entity.USER, requests.user), (Entity.ITEM, requests.item)):
            values = [read(feature.name)[chosen] for feature in columns[entity]]
            numeric[entity] = NumericEncoder.fit(columns[entity], _stacked(values, len(chosen)))
        numeric[Entity.PAIR] = NumericEncoder.fit(columns[Entity.PAIR], values_NF[chosen])
        return InputEncoder.of(encoder, numeric, config, sources, requests.half_life_days)

    @staticmethod
    def of(
        encoder: Encoder,
        numeric: Mapping[Entity, NumericEncoder],
        config: NetworkConfig,
        sources: tuple[str, ...],
        half_life_days: float,
    ) -> InputEncoder:
        """From fitted parts; see ``fit``."""
        columns = columns_of(encoder, sources)
        for entity, features in columns.items():
            numeric[entity].require_columns(features)
        sizes = {f.name: f.buckets for features in columns.values() for f in features}
        for entity in (Entity.USER, Entity.ITEM):
            coded = encoder.schema.encoded(entity, Encoding.CATEGORICAL)
            sizes |= {feature.name: feature.buckets for feature in coded}
        alone = [[f.name] for f in columns[Entity.PAIR]] if config.one_hot else []
        crosses = Crosses.declare([*alone, *config.crosses], sizes, config.max_cross_rows)
        return InputEncoder(encoder, numeric, crosses, sources, half_life_days)

    def encode(self, user_rows: AnyRows, requests: Requests) -> Inputs:
        """Inputs of the candidates of B user rows, from which ``requests`` was made."""
        return self.encode_matrix(user_rows, requests, numeric_matrix(requests))

    def encode_matrix(self, user_rows: AnyRows, requests: Requests, values_NF: Floats) -> Inputs:
        """As ``encode``, with the numeric matrix at hand."""
        columns = self.numeric[Entity.PAIR].encode(values_NF)
        return Inputs(self.users(user_rows, requests), requests.user_of, requests.item_of, columns)

    def users(self, user_rows: AnyRows, requests: Requests) -> Side:
        """Encoded users of B requests."""
        encoded = self._tabled.encode(user_rows, Entity.USER, requests.now_s)
        return Side(encoded, self._columns(Entity.USER, requests.user_values, len(encoded)))

    @cached_property
    def _tabled(self) -> Encoder:
        """The encoder of what is read from tables alone: numeric features are columns here."""
        schema = self.encoder.schema
        kept = (f for f in schema.features if f.encoding is not Encoding.NUMERIC)
        return replace(self.encoder, schema=Schema(schema.service, tuple(kept)))

    def items(self, side: ItemSide) -> Side:
        """Encoded rows of the item side."""
        return Side(side.encoded, self._columns(Entity.ITEM, side.values, len(side.encoded)))

    def _columns(self, entity: Entity, values: Mapping[str, Floats], size: int) -> Columns:
        encoder = self.numeric[entity]
        return encoder.encode(_stacked([values[name] for name in encoder.names], size))

    def pair_inputs(
        self, users: Side, items: Side, user_of: Ints, item_of: Ints, columns: Columns
    ) -> PairInputs:
        """Tensors of N candidates whose users and items are rows of ``users`` and ``items``."""
        wide = self.wide_rows(users, items, user_of, item_of, columns.codes.T)
        arrays = (user_of, item_of, columns.codes.astype(np.int64), columns.scores, wide)
        return PairInputs(*(torch.from_numpy(array) for array in arrays))

    def wide_rows(
        self, users: Side, items: Side, user_of: Ints, item_of: Ints, codes_FN: Codes
    ) -> Ints:
        """[N, C] rows of the wide side, of candidates with these buckets of their columns."""
        found = dict(zip(self.numeric[Entity.PAIR].names, codes_FN, strict=True))
        codes: dict[str, npt.NDArray[np.integer]] = {**found}
        for name in self.crosses.features:
            if name not in codes:
                codes[name] = self._codes(name, users, items, user_of, item_of)
        return self.crosses.rows(codes, len(user_of))

    def _codes(
        self, name: str, users: Side, items: Side, user_of: Ints, item_of: Ints
    ) -> npt.NDArray[np.integer]:
        """[N] buckets of a user or item feature."""
        sides = ((Entity.USER, users, user_of), (Entity.ITEM, items, item_of))
        for entity, side, row_of in sides:
            names = self.numeric[entity].names
            if name in names:
                return side.columns.codes[:, names.index(name)][row_of]
            if name in side.encoded.bags:
                return side.encoded.bags[name].values[row_of]
        raise KeyError(name)

    def keys(self, entity: Entity, without: Sequence[str]) -> tuple[str, ...]:
        """Features of an entity that the deep side reads from embedding tables, its id first."""
        name, *_ = self.encoder.keys(entity)
        read = [name, *(f.name for f in self.encoder.schema.encoded(entity, *TABLES))]
        return tuple(key for key in read if key not in without)

    def widths(self, without: Sequence[str], dims: Mapping[str, int]) -> Widths:
        """Sizes of a network over these inputs; ``dims`` is the width of each feature's table."""
        user, item = (
            sum(dims[key] for key in self.keys(entity, without))
            for entity in (Entity.USER, Entity.ITEM)
        )
        columns = columns_of(self.encoder, self.sources)
        return Widths(
            user=user,
            item=item,
            user_columns=len(columns[Entity.USER]),
            item_columns=len(columns[Entity.ITEM]),
            pair_columns=len(columns[Entity.PAIR]),
            buckets=max(f.buckets for features in columns.values() for f in features),
            wide_rows=self.crosses.num_rows,
        )

    def save(self, folder: Path) -> None:
        """Write the encoder and the cut points into ``folder``."""
        self.encoder.save(folder / "encoder")
        for entity, numeric in self.numeric.items():
            numeric.save(_quantiles(folder, entity))

    @staticmethod
    def load(
        folder: Path, config: NetworkConfig, sources: tuple[str, ...], half_life_days: float
    ) -> InputEncoder:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: a file is missing, or the columns are not those of ``sources``.
        """
        encoder = Encoder.load(folder / "encoder")
        numeric = {entity: NumericEncoder.load(_quantiles(folder, entity)) for entity in Entity}
        return InputEncoder.of(encoder, numeric, config, sources, half_life_days)


def columns_of(encoder: Encoder, sources: tuple[str, ...]) -> dict[Entity, tuple[Feature, ...]]:
    """The numeric columns of users, of items and of pairs."""
    schema = encoder.schema
    return {
        Entity.USER: schema.encoded(Entity.USER, Encoding.NUMERIC),
        Entity.ITEM: schema.encoded(Entity.ITEM, Encoding.NUMERIC),
        Entity.PAIR: numeric_features(sources),
    }


def side_inputs(side: Side, pooled: Mapping[str, Tensor], keys: Sequence[str]) -> SideInputs:
    """Tensors of users or items, with the pooled rows [B, D] of each of ``keys``."""
    codes = torch.from_numpy(side.columns.codes.astype(np.int64))
    return beside(codes, torch.from_numpy(side.columns.scores), [pooled[key] for key in keys])


def beside(codes: Tensor, scores: Tensor, pooled: Sequence[Tensor]) -> SideInputs:
    """Tensors of users or items on the device of their pooled rows, laid side by side."""
    device = pooled[0].device if pooled else codes.device
    together = torch.cat([torch.zeros((len(codes), 0), device=device), *pooled], dim=1)
    return SideInputs(together, codes.to(device), scores.to(device))


def _quantiles(folder: Path, entity: Entity) -> Path:
    return folder / f"{entity.value}_quantiles.json"


def _stacked(columns: Sequence[Floats], size: int) -> Floats:
    if not columns:
        return np.zeros((size, 0), dtype=np.float32)
    return np.stack(columns, axis=1).astype(np.float32)
