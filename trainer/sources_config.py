"""Settings of ``trainer.sources``: which candidate sources there are and how they are fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from retrieval.sources import Transform
from trainer.config import DataChoice, IndexConfig
from trainer.model_config import require


@dataclass
class EaseConfig:
    """EASE: a linear model over the most bought items (Steck, 2019)."""

    items: int = 6000
    """Items with the most buyers that take part."""
    l2: float = 100.0
    neighbours: int = 200
    """Largest weights, by absolute value, that are kept of an item."""
    transform: Transform = Transform.CLIPPED

    def __post_init__(self) -> None:
        for name in ("items", "l2", "neighbours"):
            value = getattr(self, name)
            require(value > 0, f"sources.ease.{name} must be above zero; got {value}.")


@dataclass
class KnnConfig:
    """Item-kNN: items with similar buyers, by cosine."""

    neighbours: int = 100
    shrink: float = 5.0
    """Added to the product of norms, against similarities of few buyers."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require(
            self.neighbours > 0,
            f"sources.item_knn.neighbours must be above zero; got {self.neighbours}.",
        )
        require(
            self.shrink >= 0, f"sources.item_knn.shrink must not be negative; got {self.shrink}."
        )


@dataclass
class GroupConfig:
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
        for name in ("neighbours", "days"):
            value = getattr(self, name)
            require(value > 0, f"A group source's {name} must be above zero; got {value}.")


def _quotas() -> dict[str, int]:
    return {
        "ann": 100,
        "buy_again": 200,
        "ease": 100,
        "item_knn": 40,
        "popular": 50,
        "first_time_popular": 50,
        "category": 70,
        "brand": 50,
    }


@dataclass
class SourceSettings:
    """The sources of a bundle."""

    quotas: dict[str, int] = field(default_factory=_quotas)
    """Source -> most candidates that it names; 0 leaves the source out."""
    new_only: bool = True
    """Whether sources other than buy_again name only items outside of the user's history."""
    popular_days: int = 28
    """Days before the cut-off that popularity is counted over."""
    ease: EaseConfig = field(default_factory=EaseConfig)
    item_knn: KnnConfig = field(default_factory=KnnConfig)
    category: GroupConfig = field(default_factory=GroupConfig)
    brand: GroupConfig = field(default_factory=lambda: GroupConfig(groups=["category", "brand"]))

    def __post_init__(self) -> None:
        known = _quotas()
        unknown = sorted(set(self.quotas) - set(known))
        require(not unknown, f"sources.quotas names {unknown}; sources are {sorted(known)}.")
        require(
            all(k >= 0 for k in self.quotas.values()) and any(self.quotas.values()),
            f"sources.quotas must not be negative, and one above zero; got {self.quotas}.",
        )
        require(
            self.popular_days > 0,
            f"sources.popular_days must be above zero; got {self.popular_days}.",
        )


@dataclass
class SourcesConfig(DataChoice):
    """Everything that a retriever bundle is made from."""

    cutoff: str = MISSING
    """t0..t3 or an ISO time: nothing from then on is seen."""
    two_tower: str = MISSING
    """Folder of the two-tower run, trained at the same cut-off; the bundle goes into it."""
    sources: SourceSettings = field(default_factory=SourceSettings)
    index: IndexConfig = field(default_factory=IndexConfig)
    paths: Any = None
    """Read by ``python -m trainer`` alone; taken here so that both accept the same settings."""
