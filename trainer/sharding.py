"""Where tables live: TorchRec's planner, told what the machine offers and what a step reads.

``plan`` serves a run, within its process group, and ``python -m trainer.plan``, for any number of
processes that need not exist. Tables stay on the meta device: a plan costs no memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.collective_utils import invoke_on_rank_and_broadcast_result
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    PlannerError,
    ShardingOption,
    Stats,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import CacheParams, ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import DATA_TYPE_NUM_BITS, DataType

from feature_repo.contract.errors import ConfigError
from trainer.hardware import GB, Hardware
from trainer.sharding_config import ShardingConfig, Strategy

TYPES = {
    Strategy.auto: [ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE],
    Strategy.row_wise: [ShardingType.ROW_WISE],
    Strategy.table_row_wise: [ShardingType.TABLE_ROW_WISE],
    Strategy.column_wise: [ShardingType.COLUMN_WISE],
    Strategy.uvm_caching: [ShardingType.ROW_WISE],
}
"""How big tables may be cut. Never data-parallel: its optimiser state has other names than that
of the fused kernels, and a checkpoint could not move between plans (torchrec #2394)."""

ADAGRAD_BYTES = 4
"""A row-wise Adagrad keeps one float32 for each row of a part."""


class NoRoom(ConfigError):
    """The tables do not fit the machine."""


@dataclass(frozen=True)
class Load:
    """What one process reads in a step."""

    batch_size: int
    """Examples, those counted that are empty for a feature."""
    pooling_factors: Mapping[str, float]
    """Feature -> mean rows an example; 1 where a feature is not named."""
    weighted: bool = True
    """Whether a weight goes with every row."""

    def of(self, feature: str) -> float:
        """Mean rows of a feature an example."""
        return self.pooling_factors.get(feature, 1.0)


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, each with the same hardware."""

    hardware: Hardware
    world_size: int
    local_world_size: int
    """Processes of a node."""

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 1 <= self.local_world_size <= self.world_size:
            raise ConfigError(
                f"world_size={self.world_size} and local_world_size={self.local_world_size} do "
                "not make nodes: expected 1 <= local_world_size <= world_size."
            )
        if self.world_size % self.local_world_size:
            raise ConfigError(
                f"{self.world_size} processes do not fill nodes of {self.local_world_size}: make "
                "world_size a multiple of local_world_size."
            )

    @property
    def num_nodes(self) -> int:
        """Nodes of ``local_world_size`` processes."""
        return self.world_size // self.local_world_size


class RowWiseSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder, which also cuts tables by rows on CPU (gloo), where stock offers it
    for CUDA alone."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The kinds of sharding on a device."""
        types: list[str] = super().sharding_types(compute_device_type)
        by_rows = [ShardingType.ROW_WISE.value, ShardingType.TABLE_ROW_WISE.value]
        return list(dict.fromkeys([*types, *by_rows]))


def sharders(device: str, config: ShardingConfig) -> list[Any]:
    """What DistributedModelParallel and the planner shard tables with.

    Args:
        device: cuda or cpu.
        config: ``quantize_comms`` sends pooled vectors between GPUs in 16 bits.
    """
    if device != "cuda" or not config.quantize_comms:
        return [RowWiseSharder()]
    comms = QCommsConfig(forward_precision=CommType.FP16, backward_precision=CommType.BF16)
    codecs = get_qcomm_codecs_registry(comms, device=torch.device("cuda"))
    return [RowWiseSharder(qcomm_codecs_registry=codecs)]


def local_world_size(world_size: int) -> int:
    """Processes of this run on this machine, as ``torchrun`` says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def plan(
    module: nn.Module,
    config: ShardingConfig,
    cluster: Cluster,
    load: Load,
    group: dist.ProcessGroup | None = None,
) -> ShardingPlan:
    """Which process holds which part of which table.

    Args:
        module: holds one EmbeddingBagCollection on the meta device, its optimiser applied.
        config: the strategy.
        cluster: of the run.
        load: of a step.
        group: the run's processes, of which the first plans for all; a collective. None plans in
            this process alone.

    Raises:
        NoRoom: the tables do not fit.
        ConfigError: the device cannot do what ``config`` asks for.
    """
    planner = _planner(module, config, cluster, load)
    chosen = sharders(cluster.hardware.compute_device, config)

    def search() -> tuple[ShardingPlan | None, str]:
        try:
            return planner.plan(module, chosen), ""
        except PlannerError:
            return None, _no_room(module, config, cluster)

    # An error is an answer too: were it raised in the first process, the others would wait on.
    if group is None:
        found, said = search()
    else:
        found, said = invoke_on_rank_and_broadcast_result(group, 0, search)
    if found is None:
        raise NoRoom(f"{said} `python -m trainer.plan` says what would fit.")
    return found


def place(
    module: nn.Module, config: ShardingConfig, cluster: Cluster, load: Load
) -> list[ShardingOption]:
    """As ``plan``, in this process alone: each table's parts with ranks, memory and time."""
    recorder = _Recorder()
    planner = _planner(module, config, cluster, load, recorder)
    try:
        planner.plan(module, sharders(cluster.hardware.compute_device, config))
    except PlannerError as error:
        raise NoRoom(_no_room(module, config, cluster)) from error
    return recorder.options


def offered(config: ShardingConfig, hardware: Hardware) -> tuple[int, int]:
    """Bytes of (GPU memory, main memory) that tables of one process may take."""
    kept = 1.0 - config.reserve
    hbm = hardware.hbm_bytes * kept if config.hbm_gb is None else config.hbm_gb * GB
    ddr = hardware.ddr_bytes * kept if config.ddr_gb is None else config.ddr_gb * GB
    return (int(hbm) if hardware.compute_device == "cuda" else 0), int(ddr)


def tables_of(module: nn.Module) -> list[EmbeddingBagConfig]:
    """The tables of a module's collection."""
    return [
        table
        for part in module.modules()
        if isinstance(part, EmbeddingBagCollection)
        for table in part.embedding_bag_configs()
    ]


class _Recorder(Stats):
    """Keeps the planner's choice with its estimates, which a ShardingPlan lacks."""

    def __init__(self) -> None:
        self.options: list[ShardingOption] = []

    def log(self, *_: Any, best_plan: list[ShardingOption], **__: Any) -> None:
        self.options = list(best_plan)


def _planner(
    module: nn.Module,
    config: ShardingConfig,
    cluster: Cluster,
    load: Load,
    stats: Stats | None = None,
) -> EmbeddingShardingPlanner:
    device = cluster.hardware.compute_device
    if config.strategy is Strategy.uvm_caching and device != "cuda":
        raise ConfigError(
            "sharding=uvm_caching keeps a cache on a GPU, and this run is on CPU, where tables "
            "are in main memory already. Choose sharding=auto."
        )
    return EmbeddingShardingPlanner(
        topology=topology(config, cluster),
        batch_size=load.batch_size,
        constraints={
            table.name: constraints(table, config, cluster, load) for table in tables_of(module)
        },
        # ``offered`` has set the reserve aside, of main memory too, which TorchRec's own would not.
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        stats=[] if stats is None else [stats],
        debug=False,
    )


def topology(config: ShardingConfig, cluster: Cluster) -> Topology:
    """The cluster as TorchRec describes it; it counts bandwidths in bytes a millisecond."""
    hardware = cluster.hardware
    hbm, ddr = offered(config, hardware)
    return TopologyFactory.create_topology(
        TrainerConfig(
            world_size=cluster.world_size,
            local_world_size=cluster.local_world_size,
            hbm_cap_bytes=hbm,
            ddr_cap_bytes=ddr,
        ),
        HardwareConfig(
            hbm_mem_bw=(hardware.hbm_bytes_s or hardware.ddr_bytes_s) / 1e3,
            ddr_mem_bw=hardware.ddr_bytes_s / 1e3,
            hbm_to_ddr_mem_bw=hardware.hbm_to_ddr_bytes_s / 1e3,
            intra_host_bw=hardware.intra_bytes_s / 1e3,
            inter_host_bw=hardware.inter_bytes_s / 1e3,
        ),
        KernelConfig(compute_device=hardware.compute_device, use_hardware_based_bandwidth=True),
    )


def constraints(
    table: EmbeddingBagConfig, config: ShardingConfig, cluster: Cluster, load: Load
) -> ParameterConstraints:
    """How a table may be cut, and what a step reads of it."""
    big = table.num_embeddings >= config.row_wise_from
    types = TYPES[config.strategy] if big else [ShardingType.TABLE_WISE]
    if config.strategy is Strategy.auto and cluster.num_nodes == 1:
        types = types[:1]  # one node is all processes
    cached = big and config.strategy is Strategy.uvm_caching
    kernel = EmbeddingComputeKernel.FUSED_UVM_CACHING if cached else EmbeddingComputeKernel.FUSED
    return ParameterConstraints(
        sharding_types=[kind.value for kind in types],
        compute_kernels=[kernel.value],
        min_partition=config.column_dim,
        # An empty example is sent as a vector of zeros; below 1, the planner would not count it.
        pooling_factors=[max(1.0, load.of(feature)) for feature in table.feature_names],
        cache_params=CacheParams(load_factor=config.cache_load_factor) if cached else None,
        output_dtype=DataType.FP32,
    )


def table_bytes(table: EmbeddingBagConfig) -> int:
    """A whole table with its optimiser state."""
    element = DATA_TYPE_NUM_BITS[table.data_type] // 8
    return int(table.num_embeddings * (table.embedding_dim * element + ADAGRAD_BYTES))


def _no_room(module: nn.Module, config: ShardingConfig, cluster: Cluster) -> str:
    needed = sum(table_bytes(table) for table in tables_of(module))
    hbm, ddr = offered(config, cluster.hardware)
    room = f"{ddr / GB:.1f} GB of main memory"
    if hbm:
        room = f"{hbm / GB:.1f} GB of GPU memory and {room}"
    return (
        f"The tables do not fit. With their optimiser state they take {needed / GB:.1f} GB, that "
        f"is {needed / cluster.world_size / GB:.1f} GB in each of {cluster.world_size} processes "
        "were they cut evenly, and a step's buffers come on top. With "
        f"sharding={config.strategy.value} tables may use {room} a process on "
        f"{cluster.hardware.name}."
    )
