"""The processes of one training run: one by itself, or many under ``torchrun``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
import torch.distributed as dist

from feature_repo.contract.errors import ConfigError

log = logging.getLogger(__name__)


class Device(Enum):
    """Where models train."""

    auto = "auto"
    """The GPU where there is one."""
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process logs and writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds on any process; a collective."""
        return bool(self.max(int(flag)))

    def max(self, value: int) -> int:
        """The largest ``value`` of all processes; a collective."""
        if self.world_size == 1:
            return value
        found = torch.tensor([value], device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found.item())

    def mean(self, value: float) -> float:
        """Mean of ``value`` over the processes; a collective."""
        if self.world_size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total.item()) / self.world_size

    def share(self, values: dict[str, float]) -> dict[str, float]:
        """What the first process holds, on every process; a collective."""
        if self.world_size == 1:
            return values
        held: list[dict[str, float]] = [values]
        dist.broadcast_object_list(held, src=0)
        return held[0]


@contextlib.contextmanager
def process_group(device: Device = Device.auto) -> Iterator[Process]:
    """Join the process group of ``torchrun``, or make one of this process alone.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    rank, world_size = _environment("RANK", 0), _environment("WORLD_SIZE", 1)
    local_rank = _environment("LOCAL_RANK", 0)
    where = _choose(device, local_rank)
    backend = "nccl" if where.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Process(rank, world_size, local_rank, where)
    finally:
        dist.destroy_process_group()


def _environment(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _choose(device: Device, local_rank: int) -> torch.device:
    if device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError(
            "sharding.device=cuda, but torch finds no GPU: see `python -m trainer.doctor`, "
            "or set sharding.device=cpu."
        )
    if device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def set_up_logging() -> None:
    """Log to stderr: our own lines of the first process, and everybody's warnings."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,  # importing fbgemm sets up the root logger
    )
    if _environment("RANK", 0) == 0:
        for name in ("feature_repo", "ranking", "retrieval", "trainer", "__main__"):
            logging.getLogger(name).setLevel(logging.INFO)
    for name in ("torchrec", "fbgemm_gpu", "torch.distributed", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # torch warns of names that torchrec uses and that are to go.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\..*")
