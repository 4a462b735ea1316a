"""What the dense layers of a step cost a process: products, and the memory of the scores.

Shapes: of W processes each has B / W examples and C / W items of a batch; V width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from feature_repo.contract.encoding import IDS
from feature_repo.contract.schema import Encoding, Entity, Schema
from ranking.features import numeric_features
from ranking.network import Widths
from ranking.rankers import make_network
from retrieval.towers import TowerConfig, TwoTower, TwoTowerConfig
from trainer.embeddings import TableConfig
from trainer.hardware import Hardware
from trainer.model_config import TwoTowerModelConfig
from trainer.planning.config import PlanConfig
from trainer.ranker_config import RankerModelConfig
from trainer.sources_config import SourceSettings

TRAINING = 6
"""Operations for each weight and example: a product and a sum forward, twice as many backward
(Kaplan et al., "Scaling Laws for Neural Language Models", 2020)."""
SCORE_BYTES = 4
"""``trainer.losses.sampled_softmax`` finds gradients in place of its float32 scores."""
WEIGHT_BYTES = 16
"""A weight, its gradient and Adam's two moments in float32."""


@dataclass(frozen=True)
class Dense:
    """Of one process and step."""

    operations: float
    """Of the layers."""
    score_operations: float
    """Of the scores, which are in fp32 whatever the layers are in."""
    num_weights: int
    scores: float
    """Scores of its examples with the batch's items that are in memory at once; 0 without."""

    @property
    def bytes(self) -> int:
        """Memory of weights, optimiser and scores; other activations are small beside."""
        return int(self.num_weights * WEIGHT_BYTES + self.scores * SCORE_BYTES)

    def ms(self, hardware: Hardware, bf16: bool) -> float:
        """Milliseconds at the full rate of the data sheet, which no layer quite reaches."""
        rate = hardware.bf16_flops_s if bf16 else hardware.fp32_flops_s
        return 1e3 * (self.operations / rate + self.score_operations / hardware.fp32_flops_s)


def dense_of(
    config: PlanConfig, schema: Schema, tables: Iterable[TableConfig], items: float
) -> Dense:
    """What the model of an experiment costs; it is made on the meta device.

    Args:
        config: the run.
        schema: its features.
        tables: those that it reads.
        items: C, items of a batch.
    """
    dims = {feature: table.dim for table in tables for feature in table.features}
    batch, world_size = config.trainer.batch_size, config.world_size
    match config.model:
        case TwoTowerModelConfig() as model:
            with torch.device("meta"):
                towers = TwoTower(_towers(model, schema, dims))
            users, shown = _weights(towers.user), _weights(towers.item)
            scores = batch / world_size * items
            layers = (users * batch + shown * items) / world_size
            return Dense(TRAINING * layers, TRAINING * scores * model.dim, users + shown, scores)
        case RankerModelConfig() as model:
            with torch.device("meta"):
                network = make_network(model.network, _widths(schema, dims))
            parts = (network.pair_layer, network.body, network.head)
            each = sum(_weights(part) for part in parts)
            layers = each * items
            layers += _weights(network.user_layer) * batch + _weights(network.item_layer) * items
            return Dense(TRAINING * layers / world_size, 0.0, _weights(network), 0.0)
        case model:
            raise TypeError(f"No plan is made of {type(model).__name__}.")


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _towers(model: TwoTowerModelConfig, schema: Schema, dims: dict[str, int]) -> TwoTowerConfig:
    user, item = (
        TowerConfig(
            (names := _keys(schema, entity, dims)),
            [dims[name] for name in names],
            len(schema.encoded(entity, Encoding.NUMERIC)),
            model.hidden,
            model.dim,
        )
        for entity in IDS
    )
    return TwoTowerConfig(user, item, model.normalize)


def _widths(schema: Schema, dims: dict[str, int]) -> Widths:
    """Of a ranker of candidates from the usual sources, without crosses."""
    pairs = numeric_features(tuple(SourceSettings().quotas))
    user, item = (schema.encoded(entity, Encoding.NUMERIC) for entity in IDS)
    return Widths(
        user=sum(dims[name] for name in _keys(schema, Entity.USER, dims)),
        item=sum(dims[name] for name in _keys(schema, Entity.ITEM, dims)),
        user_columns=len(user),
        item_columns=len(item),
        pair_columns=len(pairs),
        buckets=max(feature.buckets for feature in (*user, *item, *pairs)),
        wide_rows=1,
    )


def _keys(schema: Schema, entity: Entity, dims: dict[str, int]) -> list[str]:
    """Features of an entity that are read from tables."""
    return [name for name in (IDS[entity], *(f.name for f in schema.of(entity))) if name in dims]
