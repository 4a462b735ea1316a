"""Settings of the graph filter."""

from __future__ import annotations

from dataclasses import dataclass

from feature_repo.contract.errors import require
from retrieval.sources import Transform
from trainer.source_config import FittedModelConfig, require_positive


@dataclass
class GraphFilterConfig(FittedModelConfig):
    """A low-pass filter of the graph of users and items; see ``trainer.graph_filter``."""

    rank: int = 512
    """Singular vectors of the graph for which the filter is exact."""
    half_rank: int = 384
    """Singular vector of which the filter lets half pass; a smaller one smooths more."""
    user_exponent: float = 0.15
    """Users' purchases count as their number to the power of minus this."""
    item_exponent: float = 0.3
    """Likewise items', so that much bought ones do not make the graph alone."""
    history_exponent: float = 0.3
    """An item of the history counts as its number of purchases to the power of minus this."""
    popularity_exponent: float = 0.2
    """An item scores as its number of purchases to the power of this."""
    self_exponent: float = 1.0
    """1: an item that mostly explains itself is raised, as in EASE; 0: as in ridge regression."""
    sharpness: float = 1.0
    """Power of the weights; above 1 near neighbours count more."""
    neighbours: int = 300
    """Largest weights that are kept of an item."""
    transform: Transform = Transform.BINARY
    seed: int = 0
    """Of the vectors that the search for singular vectors begins with."""

    def __post_init__(self) -> None:
        counts = {"rank": self.rank, "half_rank": self.half_rank, "neighbours": self.neighbours}
        require_positive("graph_filter", **counts, sharpness=self.sharpness)
        require(
            self.half_rank <= self.rank,
            f"graph_filter.half_rank must be at most graph_filter.rank={self.rank}; "
            f"got {self.half_rank}.",
        )
