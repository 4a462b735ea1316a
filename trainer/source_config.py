"""Settings of the candidate models that are fitted in closed form or by counting."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrieval.sources import Transform
from trainer.model_config import ModelConfig, require


@dataclass
class FittedModelConfig(ModelConfig):
    """Base of the models that are fitted on all purchases at once."""


@dataclass
class EaseConfig(FittedModelConfig):
    """EASE: a linear model over the most bought items (Steck, 2019)."""

    items: int = 6000
    """Items with the most buyers that take part."""
    l2: float = 100.0
    neighbours: int = 200
    """Largest weights, by absolute value, that are kept of an item."""
    transform: Transform = Transform.CLIPPED

    def __post_init__(self) -> None:
        require_positive("ease", items=self.items, l2=self.l2, neighbours=self.neighbours)


@dataclass
class KnnConfig(FittedModelConfig):
    """Item-kNN: items with similar buyers, by cosine."""

    neighbours: int = 100
    shrink: float = 5.0
    """Added to the product of norms, against similarities of few buyers."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require_positive("item_knn", neighbours=self.neighbours)
        require(self.shrink >= 0, f"item_knn.shrink must not be negative; got {self.shrink}.")


@dataclass
class GroupConfig(FittedModelConfig):
    """The most bought items of the groups that a user buys from."""

    groups: list[str] = field(default_factory=lambda: ["subcategory"])
    """Item attributes that together make a group."""
    neighbours: int = 60
    """Items of a group that take part."""
    days: int = 56
    """Purchases of so many days before the cut-off count."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require(len(self.groups) > 0, "A source of groups needs at least one attribute.")
        require_positive("A group source's", neighbours=self.neighbours, days=self.days)


@dataclass
class PopularConfig(FittedModelConfig):
    """The items with the most buyers."""

    days: int = 28
    """Purchases of so many days before the cut-off count."""
    first_time: bool = False
    """Whether only a user's first purchase of an item counts."""

    def __post_init__(self) -> None:
        require_positive("popular", days=self.days)


def require_positive(model: str, **values: float) -> None:
    """Check that settings are above zero.

    Raises:
        ConfigError: one is not; named.
    """
    for name, value in values.items():
        where = f"{model} {name}" if " " in model else f"{model}.{name}"
        require(value > 0, f"{where} must be above zero; got {value}.")
