"""Settings of rankers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from feature_repo.contract.errors import require
from feature_repo.contract.events import TARGET_EVENTS, EventType
from ranking.network import NetworkConfig
from ranking.rankers import kind_of
from ranking.wide_deep import WideDeepConfig
from trainer.model_config import ModelConfig


class Calibrator(Enum):
    """How logits become probabilities."""

    none = "none"
    platt = "platt"
    """A logistic curve: two numbers, for few purchases."""
    isotonic = "isotonic"
    """Any curve that rises, for thousands of purchases."""


@dataclass
class CalibrationConfig:
    """Probabilities of a purchase beside the logits; lists stay as they are."""

    method: Calibrator = Calibrator.none
    """Fitted on ``validation``, or without one on users that are held out."""
    held_out: float = 0.1
    """Share of the users that are not trained on where there is no ``validation``."""

    def __post_init__(self) -> None:
        require(
            0 < self.held_out < 1,
            f"model.calibration.held_out must be in (0, 1); got {self.held_out}.",
        )


@dataclass
class RankerModelConfig(ModelConfig):
    """A ranker, its training rows and its loss."""

    network: NetworkConfig = field(default_factory=WideDeepConfig)
    """Its type says which kind of ranker it is; see ``ranking.rankers``."""
    members: int = 1
    """Networks that are trained one after the other, from seeds of their own, and whose logits are
    averaged. Serving takes as many times as long for its networks, not for their inputs."""
    new_only: bool = False
    """Train on candidates that the user had not bought: a ranker for lists of new items."""
    earlier: list[str] = field(default_factory=list)
    """More retriever bundles, of earlier cut-offs, whose label windows are trained on too."""
    validation: str | None = None
    """A retriever bundle on whose label window each epoch is judged; ``trainer.select=ndcg@10``
    keeps the best epoch's weights, ``trainer.patience`` ends the training after it. Fitted at the
    cut-off, it is for choosing settings: the windows from the cut-off on are then no longer unseen.
    Fitted a window before it, with ``retriever`` and ``earlier`` before that, nothing is."""
    listwise: float = 1.0
    """Weight of the softmax loss over a request's candidates."""
    balance: float = 1.0
    """A request with n purchases weighs n ** balance in the softmax loss: 0 makes requests equal,
    1 purchases."""
    pointwise: float = 0.0
    """Weight of the binary cross-entropy of single candidates."""
    negatives: int = 100
    """Candidates without a purchase that are drawn a request and epoch."""
    item_dropout: float = 0.1
    """Share of item ids replaced by "unknown" in training."""
    tasks: dict[str, float] = field(default_factory=lambda: {"purchase": 1.0})
    """Event of the label window (purchase, add_to_cart, click, view) -> weight of its loss, such as
    {purchase: 1.0, add_to_cart: 0.3, view: 0.1}. Each has a head of its own on one body."""
    score: dict[str, float] = field(default_factory=lambda: {"purchase": 1.0})
    """Task -> weight of its logit in the score that is served."""
    propensity_power: float = 0.0
    """A label counts 1 / propensity ** power: the logged probability that the item was shown, else
    one over its place, else, in shops without impressions, its share of the most popular item's
    labels. 0: all count alike."""
    propensity_floor: float = 0.1
    """Smallest propensity ** power."""
    recency_half_life: float | None = None
    """Days by which a label window must be older to count half; null: all count alike."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    @property
    def kind(self) -> str:
        """See ``ModelConfig``."""
        return kind_of(self.network)

    @property
    def holds_out(self) -> bool:
        """Whether some users are kept for the calibration."""
        return self.calibration.method is not Calibrator.none and self.validation is None

    @property
    def trained_tasks(self) -> dict[EventType, float]:
        """Those of a weight above zero."""
        return {EventType(name): weight for name, weight in self.tasks.items() if weight > 0}

    def __post_init__(self) -> None:
        self._check_tasks()
        for name in ("listwise", "balance", "pointwise"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} must not be negative; got {value}.")
        require(
            self.listwise + self.pointwise > 0,
            "model.listwise or model.pointwise must be above zero: there is no loss.",
        )
        require(
            self.propensity_power >= 0,
            f"model.propensity_power must not be negative; got {self.propensity_power}.",
        )
        require(
            0 < self.propensity_floor <= 1,
            f"model.propensity_floor must be in (0, 1]; got {self.propensity_floor}.",
        )
        require(
            self.recency_half_life is None or self.recency_half_life > 0,
            f"model.recency_half_life must be above zero or null; got {self.recency_half_life}.",
        )
        require(self.members > 0, f"model.members must be above zero; got {self.members}.")
        require(self.negatives > 0, f"model.negatives must be above zero; got {self.negatives}.")
        require(
            0 <= self.item_dropout < 1,
            f"model.item_dropout must be in [0, 1); got {self.item_dropout}.",
        )

    def _check_tasks(self) -> None:
        known = [event.value for event in TARGET_EVENTS]
        for setting, weights in (("tasks", self.tasks), ("score", self.score)):
            wrong = sorted(set(weights) - set(known))
            require(not wrong, f"model.{setting} must be of {known}; got {wrong}.")
            require(
                min(weights.values(), default=0.0) >= 0 and sum(weights.values()) > 0,
                f"model.{setting} needs weights of zero or more, one above it; got {weights}.",
            )
        scored = {name for name, weight in self.score.items() if weight > 0}
        untrained = sorted(scored - {event.value for event in self.trained_tasks})
        require(not untrained, f"model.score reads {untrained}, which model.tasks do not train.")
