"""Settings of how tables are spread over processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from feature_repo.contract.errors import require
from trainer.distributed import Device


class Strategy(Enum):
    """How big tables are cut; small ones live whole on one process under each."""

    auto = "auto"
    """By rows, over all processes or over those of one node, as TorchRec's planner rates it."""
    row_wise = "row_wise"
    """By rows over all processes."""
    table_row_wise = "table_row_wise"
    """By rows over the processes of one node: only pooled vectors cross the network."""
    column_wise = "column_wise"
    """By columns. Row-wise Adagrad then keeps one number for each row of each part: results
    differ from those of the other strategies, and checkpoints do not fit theirs."""
    uvm_caching = "uvm_caching"
    """By rows, values in main memory, a cache of the rows in use on the GPU."""


@dataclass
class ShardingConfig:
    """How tables are spread over processes."""

    strategy: Strategy = Strategy.auto
    device: Device = Device.auto
    row_wise_from: int = 100_000
    """Tables of at least this many rows are cut as ``strategy`` says, smaller ones live whole on
    one process."""
    column_dim: int = 32
    """Width of the parts that column_wise cuts tables into: a multiple of 4. Tables that are not
    wider, or whose width it does not divide, stay whole."""
    cache_load_factor: float = 0.1
    """Share of its rows that a table's cache on the GPU holds, with uvm_caching."""
    quantize_comms: bool = True
    """Between GPUs, send pooled vectors as fp16 and their gradients as bf16. Never on CPU."""
    reserve: float = 0.15
    """Share of the memory that tables leave to the dense layers, their gradients and CUDA."""
    hbm_gb: float | None = None
    """Memory of a GPU that tables may take, in 10^9 bytes; null: all but ``reserve``."""
    ddr_gb: float | None = None
    """Main memory that tables of one process may take, in 10^9 bytes; null: the process's share
    of the machine's, or of the job's limit, all but ``reserve``."""

    def __post_init__(self) -> None:
        for name in ("row_wise_from", "hbm_gb", "ddr_gb"):
            value = getattr(self, name)
            require(value is None or value > 0, f"sharding.{name} must be above zero; got {value}.")
        for name in ("cache_load_factor", "reserve"):
            value = getattr(self, name)
            require(0 < value < 1, f"sharding.{name} must lie between 0 and 1; got {value}.")
        require(
            self.column_dim > 0 and self.column_dim % 4 == 0,
            f"sharding.column_dim must be a multiple of 4 above zero; got {self.column_dim}.",
        )
