"""Settings of ``trainer.sources``: which candidate sources there are and how they are fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from feature_repo.contract.errors import require
from retrieval.index import IndexConfig
from trainer.config import DataChoice
from trainer.graph_filter_config import GraphFilterConfig
from trainer.source_config import (
    By,
    ContentConfig,
    EaseConfig,
    FittedModelConfig,
    GroupConfig,
    KnnConfig,
    PopularConfig,
    SimilarUsersConfig,
    StartersConfig,
    TrendingConfig,
)


def _quotas() -> dict[str, int]:
    """Two thirds of what was asked for first: as good on Complete Journey's validation weeks, and
    the cost of a request follows them. Half was as good for all items, not for new ones."""
    return {
        "ann": 60,
        "buy_again": 120,
        "ease": 80,
        "item_knn": 30,
        "popular": 40,
        "first_time_popular": 40,
        "category": 30,
        "brand": 20,
        "segment_popular": 0,
        "trending": 0,
        "content": 0,
        "similar_users": 0,
        "graph_filter": 0,
    }


@dataclass
class SourceSettings:
    """The sources of a bundle."""

    quotas: dict[str, int] = field(default_factory=_quotas)
    """Source -> most candidates that it names; 0 leaves the source out."""
    new_only: bool = True
    """Whether sources other than buy_again name only items outside of the user's history."""
    popular: PopularConfig = field(default_factory=PopularConfig)
    first_time_popular: PopularConfig = field(
        default_factory=lambda: PopularConfig(first_time=True)
    )
    starters: StartersConfig = field(default_factory=StartersConfig)
    """Of users of whom nothing is known; no candidates of others."""
    ease: EaseConfig = field(default_factory=EaseConfig)
    item_knn: KnnConfig = field(default_factory=KnnConfig)
    category: GroupConfig = field(default_factory=GroupConfig)
    brand: GroupConfig = field(default_factory=lambda: GroupConfig(groups=["category", "brand"]))
    segment_popular: PopularConfig = field(default_factory=lambda: PopularConfig(by=By.segment))
    trending: TrendingConfig = field(default_factory=TrendingConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    similar_users: SimilarUsersConfig = field(default_factory=SimilarUsersConfig)
    graph_filter: GraphFilterConfig = field(default_factory=GraphFilterConfig)
    runs: dict[str, str] = field(default_factory=dict)
    """Source -> folder of a finished run at the same cut-off (model=mf, lightgcn, ials, ...) whose
    model becomes the source, over the same items as the two-tower run."""
    blend: str | None = None
    """Folder of a run of model=blend whose weights make the source ``blend`` of those it names."""

    def __post_init__(self) -> None:
        known = {*_quotas(), *self.runs, *([] if self.blend is None else ["blend"])}
        unknown = sorted(set(self.quotas) - known)
        require(not unknown, f"sources.quotas names {unknown}; sources are {sorted(known)}.")
        both = sorted(set(self.runs) & {*_quotas(), "blend"})
        require(not both, f"sources.runs names {both}, which are sources already.")
        require(
            all(k >= 0 for k in self.quotas.values()) and any(self.quotas.values()),
            f"sources.quotas must not be negative, and one above zero; got {self.quotas}.",
        )

    def fitted(self, name: str) -> FittedModelConfig:
        """Settings of one of the sources that are fitted."""
        found = getattr(self, name)
        assert isinstance(found, FittedModelConfig)
        return found


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
