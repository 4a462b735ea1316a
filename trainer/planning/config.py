"""Settings of ``python -m trainer.plan``: a run, and the cluster that it is planned for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from feature_repo.contract.errors import require
from trainer.config import RunConfig
from trainer.hardware import KNOWN, Hardware
from trainer.sharding import Cluster


class Machine(Enum):
    """Hardware that ``trainer.hardware`` knows."""

    h100 = "h100"
    h200 = "h200"
    a100 = "a100"
    b200 = "b200"
    l4 = "l4"
    cpu = "cpu"

    @property
    def hardware(self) -> Hardware:
        """What it offers."""
        return KNOWN[self.value]


@dataclass
class PlanConfig(RunConfig):
    """A run as it would be started, and where."""

    users: int | None = None
    """Users that have a row of their own."""
    items: int | None = None
    """Items that have a row of their own."""
    targets: float = 10.0
    """Items that an example is trained on: a session's purchases, or a user's."""
    device: Machine = Machine.h100
    world_size: int = 1
    """Processes: one for each GPU."""
    local_world_size: int | None = None
    """Processes of a node; null: 8, or all where they are fewer."""

    def __post_init__(self) -> None:
        require(
            self.users is not None and self.items is not None,
            "A plan needs users=N and items=N: how many have a row of their own.",
        )
        for name in ("users", "items", "targets", "world_size", "local_world_size"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above zero; got {value}.")

    @property
    def cluster(self) -> Cluster:
        """The processes that are planned for."""
        local = self.local_world_size or min(self.world_size, 8)
        return Cluster(self.device.hardware, self.world_size, local)
