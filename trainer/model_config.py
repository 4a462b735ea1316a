"""Settings of the models, beside those that every run has (``trainer.config``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from feature_repo.contract.errors import require
from feature_repo.contract.schema import MOMENTS, Derive
from retrieval.sources import Transform


@dataclass
class ModelConfig:
    """Base of the models' settings; which one it is says which model is trained."""

    @property
    def kind(self) -> str:
        """What the identity of a run calls the model."""
        return type(self).__name__


@dataclass
class TeacherConfig:
    """A fitted model whose best items a session is taught; see ``trainer.teacher``."""

    run: str | None = None
    """Folder of its finished run, of the same set and cut-off; null: there is none."""
    weight: float = 1.0
    """Of all that a session is taught, against its own targets."""
    items: int = 100
    """That a session is taught, at most."""
    temperature: float = 0.1
    """A smaller one leaves the weight to the best of them."""

    def __post_init__(self) -> None:
        for name in ("weight", "items", "temperature"):
            value = getattr(self, name)
            require(value > 0, f"model.teacher.{name} must be above zero; got {value}.")


@dataclass
class TwoTowerModelConfig(ModelConfig):
    """The two-tower retrieval model and its loss."""

    id_dim: int = 64
    """Width of the user and item id tables."""
    feature_dim: int = 16
    """Width of the tables of the other features."""
    hidden: list[int] = field(default_factory=lambda: [128])
    """Widths of the hidden layers of each tower."""
    dim: int = 64
    """Width of user and item vectors."""
    start_as_sum: bool = False
    """Let each tower begin as the sum of its features that are ``dim`` wide, instead of at random.
    Much faster where ids and histories are all there is."""
    normalize: bool = True
    """Whether vectors have length 1, so that the score is a cosine."""
    temperature: float = 0.07
    """Scores are divided by it in the loss."""
    history_length: int = 100
    """Items of the history that the user tower reads, most recent first."""
    min_buyers: int = 2
    """Users that must have bought an item for it to get a row of its own."""
    max_age_days: int | None = None
    """Days before the cut-off whose sessions are trained on; null: all. Users, items and
    histories are those of all sessions."""
    num_negatives: int = 1024
    """Uniformly drawn negatives a batch, beside the batch's other items."""
    logq: float = 1.0
    """Strength of the correction for how often an item is among the negatives; 0 for none."""
    shown_weight: float = 1.0
    """How often an item that a session was shown and did not choose counts as its negative, where
    the set has ``exposed_item_id``; 0: not read."""
    user_dropout: float = 0.1
    """Share of user ids replaced by "unknown" in training."""
    item_dropout: float = 0.1
    """Share of item ids replaced by "unknown" in training."""
    repeat_weight: float = 1.0
    """Weight in the loss of a target that the user had bought before."""
    dropout: float = 0.0
    """Share of hidden values set to zero in training."""
    context: list[Derive] = field(default_factory=list)
    """What the user tower reads of the moment of a request: HOUR, WEEKDAY (in UTC). For shops
    whose users are judged, or served, at the hour that they buy at."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        for name in ("id_dim", "feature_dim", "dim"):
            value = getattr(self, name)
            require(
                value > 0 and value % 4 == 0,
                f"model.{name} must be a multiple of 4 above zero; got {value}.",
            )
        require(
            not self.start_as_sum or self.id_dim == self.dim,
            f"model.start_as_sum needs ids as wide as the vectors; got model.id_dim={self.id_dim} "
            f"and model.dim={self.dim}.",
        )
        wrong = [derive.name for derive in self.context if derive not in MOMENTS]
        require(not wrong, f"model.context must be of {[d.name for d in MOMENTS]}; got {wrong}.")
        for name in ("temperature", "history_length", "min_buyers"):
            value = getattr(self, name)
            require(value > 0, f"model.{name} must be above zero; got {value}.")
        require(
            self.max_age_days is None or self.max_age_days > 0,
            f"model.max_age_days must be above zero or null; got {self.max_age_days}.",
        )
        for name in ("user_dropout", "item_dropout", "dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} must be in [0, 1); got {value}.")
        for name in ("num_negatives", "logq", "repeat_weight", "shown_weight"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} must not be negative; got {value}.")
        require(
            all(width > 0 for width in self.hidden),
            f"model.hidden must hold widths above zero; got {self.hidden}.",
        )


@dataclass
class ItemGraphConfig:
    """The graph of items that GraphSAGE reads: item-kNN over all purchases."""

    neighbours: int = 30
    """Of an item, at most."""
    sampled: int = 10
    """Neighbours that a step draws of those; vectors are exported with all."""
    shrink: float = 5.0
    """Added to the product of norms, against similarities of few buyers."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require(
            0 < self.sampled <= self.neighbours,
            f"model.graph.sampled must be in 1..{self.neighbours}, the neighbours; "
            f"got {self.sampled}.",
        )
        require(self.shrink >= 0, f"model.graph.shrink must not be negative; got {self.shrink}.")


@dataclass
class GraphSageModelConfig(TwoTowerModelConfig):
    """GraphSAGE: items from their neighbours, users from the items of their histories."""

    graph: ItemGraphConfig = field(default_factory=ItemGraphConfig)
