"""Settings of the models that hold one vector a user and one an item."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from feature_repo.contract.errors import require
from trainer.model_config import ModelConfig
from trainer.source_config import FittedModelConfig, require_positive


class FactorLoss(Enum):
    """What a factor model is trained by."""

    softmax = "softmax"
    """Sampled softmax: each target against the batch's items and drawn ones."""
    multinomial = "multinomial"
    """As softmax, and a user's targets compete with one another."""
    bpr = "bpr"
    """Each target against some drawn items, pair by pair."""
    logistic = "logistic"
    """A target is bought; the batch's items and drawn ones, of all of which it gets
    ``negative_weight``, are not."""
    squared = "squared"
    """Squared error of explicit ratings."""


@dataclass
class FactorModelConfig(ModelConfig):
    """What all factor models have."""

    dim: int = 64
    """Width of user and item vectors, beside their biases."""
    loss: FactorLoss = FactorLoss.softmax
    normalize: bool = False
    """Whether vectors have length 1, without biases: the score is a cosine."""
    temperature: float = 1.0
    """Scores are divided by it in the softmax losses."""
    l2: float = 0.0
    """Times the squared length of the looked-up rows, on average over them."""
    dropout: float = 0.0
    """Share of a user vector's values set to zero in training."""
    num_negatives: int | None = 1024
    """Drawn items a target (bpr) or a batch (other losses); null, for a batch: all items."""
    negative_weight: float = 8.0
    """In the logistic loss: of all items that are not bought together, against a target."""
    logq: float = 1.0
    """Strength of the correction for how often an item is among the negatives; 0 for none."""
    min_buyers: int = 1
    """Users that must have bought an item for it to get a row of its own."""

    def __post_init__(self) -> None:
        require(
            self.dim > 0 and self.dim % 4 == 0,
            f"model.dim must be a multiple of 4 above zero; got {self.dim}.",
        )
        require_positive(
            "model",
            temperature=self.temperature,
            min_buyers=self.min_buyers,
            negative_weight=self.negative_weight,
        )
        for name in ("l2", "logq"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} must not be negative; got {value}.")
        require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1); got {self.dropout}.")
        require(
            self.num_negatives is None or self.num_negatives > 0,
            f"model.num_negatives must be above zero or null; got {self.num_negatives}.",
        )
        require(
            self.sampled or self.num_negatives is not None,
            "model.num_negatives=null (all items) needs model.loss=softmax, multinomial or "
            "logistic.",
        )

    @property
    def sampled(self) -> bool:
        """Whether targets compete with a sample of all items."""
        return self.loss in (FactorLoss.softmax, FactorLoss.multinomial, FactorLoss.logistic)


@dataclass
class MfConfig(FactorModelConfig):
    """Matrix factorisation with biases."""


@dataclass
class LightGcnConfig(FactorModelConfig):
    """LightGCN: vectors averaged over neighbours of the user-item graph."""

    layers: int = 3
    """Steps along the graph."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", layers=self.layers)
        require(
            self.loss is not FactorLoss.squared,
            "model.loss=squared is for explicit ratings: model=mf.",
        )
        require(not self.normalize, "model.normalize is not for lightgcn: its layers are sums.")


@dataclass
class IalsConfig(FittedModelConfig):
    """Matrix factorisation by implicit alternating least squares, of the library implicit."""

    dim: int = 64
    l2: float = 0.01
    alpha: float = 40.0
    """Confidence of a purchase is 1 + alpha times its decayed count."""
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(
            "ials", dim=self.dim, l2=self.l2, alpha=self.alpha, iterations=self.iterations
        )
