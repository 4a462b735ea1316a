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
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from feature_repo.contract.errors import ConfigError

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


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
    host_group: Any = None
    """Processes of a GPU run as they meet over gloo, for what is decided on the host."""

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
        """The largest ``value`` of all processes; a collective on the host."""
        if self.world_size == 1:
            return value
        return max(int(found) for found in self._gathered(torch.tensor([value]), 1))

    def share_of(self, size: int) -> slice:
        """This process's part of ``size`` things in a row: parts differ by one at most."""
        start, stop = (size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def largest_share(self, size: int) -> int:
        """The longest part that ``share_of`` gives to a process."""
        return -(-size // self.world_size)

    def together(self, values: Ints) -> Ints:
        """What all processes hold, one after the other; a collective on the host."""
        if self.world_size == 1:
            return values
        sizes = self._gathered(torch.tensor([len(values)]), 1)
        longest = max(int(size.item()) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.int64)
        padded[: len(values)] = torch.from_numpy(values)
        parts = self._gathered(padded, longest)
        return np.concatenate(
            [part.numpy()[: int(size)] for part, size in zip(parts, sizes, strict=True)]
        )

    def total(self, *values: float) -> list[float]:
        """Sums over the processes, in the order of ranks; a collective on the host."""
        if self.world_size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64)
        parts = self._gathered(mine, len(values))
        return [float(total) for total in torch.stack(parts).sum(dim=0)]

    def _gathered(self, mine: Tensor, size: int) -> list[Tensor]:
        parts = [torch.zeros(size, dtype=mine.dtype) for _ in range(self.world_size)]
        dist.all_gather(parts, mine, group=self.host_group)
        return parts

    def union(self, values: set[str]) -> set[str]:
        """What any process holds; a collective."""
        if self.world_size == 1:
            return values
        held: list[set[str]] = [set()] * self.world_size
        dist.all_gather_object(held, values)
        return set().union(*held)

    def mean(self, value: float) -> float:
        """Mean of ``value`` over the processes; a collective on the host."""
        return self.total(value)[0] / self.world_size

    def share(self, values: dict[str, float]) -> dict[str, float]:
        """What the first process holds, on every process; a collective."""
        if self.world_size == 1:
            return values
        held: list[dict[str, float]] = [values]
        dist.broadcast_object_list(held, src=0)
        return held[0]


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum over the processes."""

    @staticmethod
    def forward(context: Any, rows_RV: Tensor, world_size: int, rank: int) -> Tensor:
        context.rank, context.size = rank, len(rows_RV)
        parts = [torch.empty_like(rows_RV) for _ in range(world_size)]
        dist.all_gather(parts, rows_RV.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.contiguous()
        dist.all_reduce(total)
        start = context.rank * context.size
        return total[start : start + context.size], None, None


def gather_rows(rows_RV: Tensor, total: int, process: Process) -> Tensor:
    """[total, V] rows of all processes, each of which holds its ``process.share_of(total)``.

    Differentiable: a process gets back the gradients that all of them have for its rows, summed.
    A collective.
    """
    if process.world_size == 1:
        return rows_RV
    size = process.largest_share(total)
    padded = torch.nn.functional.pad(rows_RV, (0, 0, 0, size - len(rows_RV)))
    gathered: Tensor = _GatherRows.apply(  # type: ignore[no-untyped-call]
        padded, process.world_size, process.rank
    )
    bounds = [total * rank // process.world_size for rank in range(process.world_size + 1)]
    kept = [
        gathered[rank * size : rank * size + stop - start]
        for rank, (start, stop) in enumerate(pairwise(bounds))
    ]
    return torch.cat(kept)


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
    host_group = dist.new_group(backend="gloo") if backend == "nccl" else None
    try:
        yield Process(rank, world_size, local_rank, where, host_group)
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
