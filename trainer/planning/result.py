"""A plan with what it costs: where tables are, memory, traffic and time, by process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchrec.distributed.planner.types import ShardingOption

from trainer.config import Compute
from trainer.embeddings import meta_tables
from trainer.hardware import GB
from trainer.planning.config import PlanConfig
from trainer.planning.footprint import RankMemory, Wire, comm_bytes, rank_memory, wire
from trainer.planning.workload import Workload
from trainer.sharding import Cluster, NoRoom, offered, place, tables_of


@dataclass(frozen=True)
class Placed:
    """Where one table is."""

    table: str
    num_rows: int
    dim: int
    bytes: int
    """Of its weights."""
    sharding: str
    kernel: str
    ranks: list[int]
    """One for each part."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of the slowest process, as TorchRec's planner estimates them."""

    forward_compute: float
    backward_compute: float
    prefetch: float
    """Of rows into the cache of uvm_caching."""
    forward_comms: float
    backward_comms: float

    @property
    def total(self) -> float:
        """One after the other."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class Plan:
    """A plan with what it costs; lists are by rank."""

    config: PlanConfig
    workload: Workload
    tables: list[Placed]
    memory: list[RankMemory]
    wire: Wire
    times: Times
    offered_hbm: int
    offered_ddr: int

    @property
    def fits(self) -> bool:
        """Whether every process has room for its parts, and for the dense layers beside."""
        return self.workload.dense.bytes <= self.beside and all(
            part.hbm <= self.offered_hbm and part.ddr <= self.offered_ddr for part in self.memory
        )

    @property
    def beside(self) -> int:
        """Bytes that the tables of the fullest process leave of the memory it computes in."""
        hardware, part = self.config.device.hardware, self.memory[self.fullest]
        if hardware.compute_device == "cuda":
            return hardware.hbm_bytes - part.hbm
        return hardware.ddr_bytes - part.ddr

    @property
    def dense_ms(self) -> float:
        """Milliseconds of the dense layers at the full rate of the data sheet."""
        bf16 = self.config.trainer.compute is Compute.bf16
        return self.workload.dense.ms(self.config.device.hardware, bf16)

    @property
    def fullest(self) -> int:
        """The process with the most bytes."""
        return max(range(len(self.memory)), key=lambda rank: self.memory[rank].total)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        config = self.config
        return {
            "format": 1,
            "experiment": config.experiment,
            "device": config.device.value,
            "world_size": config.world_size,
            "local_world_size": config.cluster.local_world_size,
            "strategy": config.sharding.strategy.value,
            "features": self.workload.source,
            "examples": self.workload.load.batch_size,
            "offered_bytes": {"hbm": self.offered_hbm, "ddr": self.offered_ddr},
            "fits": self.fits,
            "tables": [asdict(table) for table in self.tables],
            "memory_bytes": [asdict(part) for part in self.memory],
            "wire_bytes": {name: getattr(self.wire, name).tolist() for name in Wire.names()},
            "dense": {**asdict(self.workload.dense), "bytes": self.workload.dense.bytes},
            "estimated_ms": {
                **asdict(self.times),
                "tables": self.times.total,
                "dense": self.dense_ms,
                "step": self.times.total + self.dense_ms,
            },
        }


def make_plan(config: PlanConfig) -> Plan:
    """Plan a run.

    Raises:
        NoRoom: the tables do not fit.
        ConfigError: the device cannot do what is asked for.
    """
    workload = Workload.of(config)
    cluster, module = config.cluster, meta_tables(workload.tables, weighted=workload.load.weighted)
    options = place(module, config.sharding, cluster, workload.load)
    hbm, ddr = offered(config.sharding, cluster.hardware)
    features = {table.name: list(table.feature_names) for table in tables_of(module)}
    number = comm_bytes(config.sharding, cluster)
    found = Plan(
        config=config,
        workload=workload,
        tables=[_placed(option) for option in options],
        memory=rank_memory(options, cluster),
        wire=wire(options, features, cluster, workload.load, number),
        times=_times(options, cluster),
        offered_hbm=hbm,
        offered_ddr=ddr,
    )
    if not found.fits:
        raise NoRoom(_no_room(found))
    return found


def _no_room(plan: Plan) -> str:
    part, dense = plan.memory[plan.fullest], plan.workload.dense
    if dense.bytes > plan.beside:
        return (
            f"The dense layers do not fit. Each process scores its "
            f"{plan.config.trainer.batch_size / plan.config.world_size:,.0f} examples with all "
            f"items of the batch, which takes {dense.bytes / GB:.1f} GB with weights and "
            f"gradients; the tables leave {plan.beside / GB:.1f} GB."
        )
    return (
        f"The tables do not fit. Process {plan.fullest} would hold {part.hbm / GB:.1f} GB of GPU "
        f"memory and {part.ddr / GB:.1f} GB of main memory; it may use "
        f"{plan.offered_hbm / GB:.1f} and {plan.offered_ddr / GB:.1f} GB."
    )


def _placed(option: ShardingOption) -> Placed:
    rows, dim = option.tensor.shape
    return Placed(
        table=option.name.removesuffix("_table"),
        num_rows=rows,
        dim=dim,
        bytes=rows * dim * option.tensor.element_size(),
        sharding=option.sharding_type,
        kernel=option.compute_kernel,
        ranks=[int(shard.rank or 0) for shard in option.shards],
    )


def _times(options: Sequence[ShardingOption], cluster: Cluster) -> Times:
    sending = float(cluster.world_size > 1)  # the planner has one process send to itself
    sums = [[0.0] * 5 for _ in range(cluster.world_size)]
    for shard in (shard for option in options for shard in option.shards):
        assert shard.perf is not None
        assert shard.rank is not None
        compute = [shard.perf.fwd_compute, shard.perf.bwd_compute, shard.perf.prefetch_compute]
        comms = [sending * shard.perf.fwd_comms, sending * shard.perf.bwd_comms]
        sums[shard.rank] = [a + b for a, b in zip(sums[shard.rank], compute + comms, strict=True)]
    return Times(*max(sums, key=sum))
