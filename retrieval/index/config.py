"""Which index is wanted, and of what quality."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from feature_repo.contract.errors import ArtifactError, require


class Kind(Enum):
    """Kinds of index."""

    auto = "auto"
    """Chosen by the number of items, memory and the wanted recall; the log says why."""
    flat = "flat"
    """Exact."""
    ivf_pq = "ivf_pq"
    """Clusters and 4-bit codes (fast scan), re-ranked by half-precision vectors."""
    hnsw = "hnsw"
    """A graph over 8-bit vectors."""


@dataclass
class IndexConfig:
    """The index over the item vectors."""

    kind: Kind = Kind.auto
    """auto, flat, ivf_pq or hnsw."""
    target_recall: float = 0.95
    """Share of a user's exact nearest ``k`` items that a search finds, on average over users held
    back. A build that stays below it is refused."""
    k: int = 100
    """Length of the lists that recall is measured on."""
    max_exact_ms: float = 0.2
    """``auto`` takes the exact index while it answers a user within this time, on one core."""
    memory_gb: float | None = None
    """Most memory that ``auto`` plans for; null: half of what the machine has free."""
    seed: int = 0
    """Of clusters and of the users that recall is measured on."""

    def __post_init__(self) -> None:
        require(
            0 < self.target_recall < 1,
            f"index.target_recall must lie between 0 and 1; got {self.target_recall}.",
        )
        require(self.k >= 1, f"index.k must be above zero; got {self.k}.")
        require(
            self.max_exact_ms >= 0,
            f"index.max_exact_ms must not be negative; got {self.max_exact_ms}.",
        )
        require(
            self.memory_gb is None or self.memory_gb > 0,
            f"index.memory_gb must be above zero or null; got {self.memory_gb}.",
        )


class IndexRefused(ArtifactError):
    """A built index finds fewer of the nearest items than was asked for."""
