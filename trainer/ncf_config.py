"""Settings of neural collaborative filtering."""

from __future__ import annotations

from dataclasses import dataclass, field

from feature_repo.contract.errors import require
from trainer.model_config import ModelConfig
from trainer.source_config import require_positive


@dataclass
class NcfConfig(ModelConfig):
    """NeuMF: a weighted dot product and a network over user and item ids, as one."""

    dim: int = 16
    """Width of the vectors of the weighted dot product (GMF)."""
    mlp_dim: int = 32
    """Width of the vectors that the network (MLP) reads."""
    hidden: list[int] = field(default_factory=lambda: [32, 16, 8])
    """Widths of the network's hidden layers."""
    num_negatives: int = 4
    """Drawn items a target."""
    pretrain_epochs: int = 10
    """First epochs, in which both parts are trained each by its own loss; then as one."""
    alpha: float = 0.5
    """Share of the weighted dot product in the sum of both parts' logits."""
    l2: float = 0.0
    """Times the squared lengths of a pair's rows, on average over all pairs."""
    dropout: float = 0.0
    """Share of the network's hidden values set to zero in training."""
    user_dropout: float = 0.02
    """Share of user ids replaced by "unknown" in training, so that its row is trained."""
    min_buyers: int = 1
    """Users that must have bought an item for it to get a row of its own."""

    def __post_init__(self) -> None:
        for name in ("dim", "mlp_dim"):
            value = getattr(self, name)
            require(
                value > 0 and value % 4 == 0,
                f"model.{name} must be a multiple of 4 above zero; got {value}.",
            )
        require(
            bool(self.hidden) and min(self.hidden) > 0,
            f"model.hidden must hold widths above zero; got {self.hidden}.",
        )
        counts = {"num_negatives": self.num_negatives, "min_buyers": self.min_buyers}
        require_positive("model", **counts)
        for name in ("pretrain_epochs", "l2"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} must not be negative; got {value}.")
        require(0 < self.alpha < 1, f"model.alpha must be in (0, 1); got {self.alpha}.")
        for name in ("dropout", "user_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} must be in [0, 1); got {value}.")
