"""Settings of the candidate models that are fitted in closed form or by counting."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from feature_repo.contract.errors import require
from retrieval.sources import Transform
from trainer.model_config import ModelConfig


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
    user_exponent: float = 0.0
    """Users count as their number of purchases to the power of minus twice this."""
    item_exponent: float = 0.0
    """An item's ``l2`` grows with its number of purchases to the power of twice this."""
    transform: Transform = Transform.CLIPPED

    def __post_init__(self) -> None:
        require_positive("ease", items=self.items, l2=self.l2, neighbours=self.neighbours)


@dataclass
class KnnConfig(FittedModelConfig):
    """Item-kNN: items with similar buyers, by cosine."""

    neighbours: int = 100
    shrink: float = 5.0
    """Added to the product of norms, against similarities of few buyers."""
    asymmetry: float = 0.5
    """Share of the bought item in the norm: 0.5 is the cosine; more favours popular neighbours."""
    user_exponent: float = 0.0
    """Users count as their number of purchases to the power of minus twice this."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require_positive("item_knn", neighbours=self.neighbours)
        require(self.shrink >= 0, f"item_knn.shrink must not be negative; got {self.shrink}.")
        require(
            0 <= self.asymmetry <= 1,
            f"item_knn.asymmetry must be in [0, 1]; got {self.asymmetry}.",
        )


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


class By(StrEnum):
    """Whose list of popular items a user gets."""

    overall = "overall"
    """The same list for everybody."""
    category = "category"
    """The most bought items of the categories that the user buys from."""
    segment = "segment"
    """The list of the user's segment, drawn towards everybody's as its users are few."""


@dataclass
class PopularConfig(FittedModelConfig):
    """The items with the most buyers."""

    days: int = 28
    """Purchases of so many days before the cut-off count."""
    first_time: bool = False
    """Whether only a user's first purchase of an item counts."""
    half_life_days: float | None = None
    """Days after which a purchase counts half; null: all within ``days`` count alike."""
    by: By = By.overall
    category: str = "category"
    """Item attribute that by=category groups by."""
    segment: str = "segment"
    """User attribute that by=segment groups by."""
    items: int = 5000
    """Items of a segment's list; by=category takes 60 of a category."""

    def __post_init__(self) -> None:
        require_positive("popular", days=self.days, items=self.items)
        require(
            self.half_life_days is None or self.half_life_days > 0,
            f"popular.half_life_days must be above zero or null; got {self.half_life_days}.",
        )
        require(
            self.by is not By.segment or not self.first_time,
            "popular.by=segment counts all buyers; take by=overall with popular.first_time=true.",
        )


@dataclass
class StartersConfig(FittedModelConfig):
    """The list of users of whom nothing is known: what most visits buy, large ones counting less.

    A new user's next visit is one visit, mostly a small one, and large baskets hold a bit of
    everything. In each of eight windows before Complete Journey's test weeks more first visits
    hold something of its first 50 items than of those with the most buyers
    (``benchmarks.first_session``).
    """

    days: int = 28
    """Visits of so many days before the cut-off count."""
    exponent: float = 0.5
    """A visit counts as its number of items to the power of minus this; 0: all count alike."""

    def __post_init__(self) -> None:
        require_positive("starters", days=self.days)
        require(self.exponent >= 0, f"starters.exponent must not be negative; got {self.exponent}.")


@dataclass
class TrendingConfig(FittedModelConfig):
    """The items that are bought more often than they were."""

    days: int = 14
    """The recent days."""
    earlier_days: int = 84
    """The days before them that they are compared with."""
    shrink: float = 20.0
    """Buyers that the data must outweigh before growth is believed."""

    def __post_init__(self) -> None:
        values = {"days": self.days, "earlier_days": self.earlier_days, "shrink": self.shrink}
        require_positive("trending", **values)


@dataclass
class SimilarUsersConfig(FittedModelConfig):
    """What similar users buy."""

    neighbours: int = 100
    """Most similar users that are asked."""
    transform: Transform = Transform.LOG
    rare: float = 0.3
    """Items weigh as much as their number of buyers to the power of minus this."""
    buyers: int = 20_000
    """Most buyers of an item through whom users are found."""
    exact_users: int = 1_000_000
    """With more users than this, users are asked by clusters."""
    clusters: int = 1000
    nearest: int = 3
    """Clusters that are asked."""
    cluster_items: int = 1000
    """Items of a cluster's list."""
    dim: int = 64
    """Width of the vectors that users are clustered by."""

    def __post_init__(self) -> None:
        counts = ("neighbours", "buyers", "clusters", "nearest", "cluster_items", "dim")
        require_positive("similar_users", **{name: getattr(self, name) for name in counts})
        for name in ("rare", "exact_users"):
            value = getattr(self, name)
            require(value >= 0, f"similar_users.{name} must not be negative; got {value}.")


def _content_weights() -> dict[str, float]:
    return {"title": 1.0, "subcategory": 1.0, "category": 0.5, "brand": 0.5, "brand_tier": 0.2}


@dataclass
class ContentConfig(FittedModelConfig):
    """Items alike to those of the history by text and attributes, whether bought or not."""

    weights: dict[str, float] = field(default_factory=_content_weights)
    """Item columns that are read, and how much each counts."""
    texts: list[str] = field(default_factory=lambda: ["title"])
    """Those of them that are cut into words; of the others the whole value is one term."""
    rare: float = 0.25
    """Terms weigh as much as the purchases of items that have them to the power of minus this."""
    min_items: int = 2
    """Items that must have a term."""
    dim: int = 128
    """Width of the vectors that terms are projected to."""
    vectors: str | None = None
    """Vectors of a text or image encoder to take beside the terms: a list column of the items, or
    a Parquet file of ``item_id`` and ``vector``; null: none."""
    vectors_share: float = 0.5
    """Share of them in the similarity."""
    topics: int = 64
    """Topics of users, found by NMF over groups of items; 0: none."""
    topics_of: str = "subcategory"
    """Item column that makes the groups."""
    topics_share: float = 0.5
    """Share of topics in the score, by its deviation over the items."""
    max_buyers: int | None = None
    """Most buyers of the items that are named, 0 for those that nobody bought; null: all items."""
    transform: Transform = Transform.LOG

    def __post_init__(self) -> None:
        require_positive("content", dim=self.dim, min_items=self.min_items)
        unread = sorted(set(self.texts) - set(self.weights))
        require(not unread, f"content.texts names {unread}, which content.weights does not read.")
        require(
            len(self.weights) > 0 and all(weight > 0 for weight in self.weights.values()),
            f"content.weights must name columns, each with a weight above zero; {self.weights}.",
        )
        for name in ("rare", "topics"):
            value = getattr(self, name)
            require(value >= 0, f"content.{name} must not be negative; got {value}.")
        for name in ("vectors_share", "topics_share"):
            value = getattr(self, name)
            require(0 < value < 1, f"content.{name} must be between 0 and 1; got {value}.")
        require(
            self.max_buyers is None or self.max_buyers >= 0,
            f"content.max_buyers must not be negative, or null; got {self.max_buyers}.",
        )


def require_positive(model: str, **values: float) -> None:
    """Check that settings are above zero.

    Raises:
        ConfigError: one is not; named.
    """
    for name, value in values.items():
        where = f"{model} {name}" if " " in model else f"{model}.{name}"
        require(value > 0, f"{where} must be above zero; got {value}.")


@dataclass
class BlendConfig(ModelConfig):
    """Several finished runs as one source, by learned weights."""

    runs: dict[str, str] = field(default_factory=dict)
    """Name -> folder of a finished run at the same cut-off; at most one two-tower model."""
    weights: str | None = None
    """Folder of an earlier blend of the same names whose weights are taken; null: they are
    learned on what half of the users bought in the window after the cut-off."""
    depth: int = 200
    """Candidates that each model names."""
    users: int = 5000
    """Users that weights are learned on, at most."""
    l2: float = 1e-4

    def __post_init__(self) -> None:
        require_positive("blend", depth=self.depth, users=self.users)
        require(self.l2 >= 0, f"blend.l2 must not be negative; got {self.l2}.")
