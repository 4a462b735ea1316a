"""The kinds of rankers: their settings, and the networks that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from feature_repo.contract.errors import ConfigError
from ranking.dcn_v2 import DcnV2, DcnV2Config
from ranking.network import NetworkConfig, RankerNetwork, Widths
from ranking.wide_deep import WideDeep, WideDeepConfig


@dataclass(frozen=True)
class Kind:
    """One kind of rankers."""

    config: type[NetworkConfig]
    network: Callable[[Any, Widths, int], RankerNetwork]
    """From settings of the type ``config``, widths and the number of heads."""


RANKERS = {
    "wide_deep": Kind(WideDeepConfig, WideDeep),
    "dcn_v2": Kind(DcnV2Config, DcnV2),
}
"""``model=NAME``, and what a bundle says that it holds."""


def kind_of(config: NetworkConfig) -> str:
    """The name of the kind whose settings these are."""
    return next(name for name, kind in RANKERS.items() if kind.config is type(config))


def make_network(config: NetworkConfig, widths: Widths, heads: int = 1) -> RankerNetwork:
    """A network of first values, which follow torch's seed."""
    return RANKERS[kind_of(config)].network(config, widths, heads)


def shape_json(config: NetworkConfig, widths: Widths) -> dict[str, Any]:
    """What ``shape_of`` reads, as JSON values."""
    return {"kind": kind_of(config), "config": asdict(config), "widths": widths._asdict()}


def shape_of(saved: dict[str, Any]) -> tuple[NetworkConfig, Widths]:
    """The settings and sizes of a saved network.

    Raises:
        ConfigError: they are of no kind that there is, or of another version of it.
    """
    kind = saved.get("kind")
    if kind not in RANKERS:
        raise ConfigError(f"it holds a ranker of kind {kind!r}, but there are {sorted(RANKERS)}.")
    try:
        return RANKERS[kind].config(**saved["config"]), Widths(**saved["widths"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"its settings are others: {error}.") from error
