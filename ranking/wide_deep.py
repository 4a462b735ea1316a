"""Wide & Deep (Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ranking.network import NetworkConfig, RankerNetwork, Widths, hidden_layers, require_layers


@dataclass
class WideDeepConfig(NetworkConfig):
    """The shape of a Wide & Deep ranker."""

    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the hidden layers of the deep side; the first is that of the projection."""
    dropout: float = 0.1
    """Share of hidden values set to zero in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_layers(self.hidden, self.dropout)


class WideDeep(RankerNetwork):
    """A linear model over crosses plus a network over embeddings; both are trained together."""

    def __init__(self, config: WideDeepConfig, widths: Widths, heads: int = 1) -> None:
        super().__init__(config, widths, config.hidden[0], heads)
        self.body = hidden_layers(config.hidden, config.dropout)
        self.finish(config.hidden[-1])
