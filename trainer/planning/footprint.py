"""What a placement of tables costs each process: memory, and bytes sent in a step.

Shapes: W processes, L of them on a node, N = W / L nodes; S examples a process and step, F features
of a table, D columns of a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner.types import Shard, ShardingOption
from torchrec.distributed.types import ShardingType

from trainer.sharding import ADAGRAD_BYTES, Cluster, Load
from trainer.sharding_config import ShardingConfig

Floats = npt.NDArray[np.float64]

ID_BYTES, WEIGHT_BYTES = 8, 4
"""An int64 row and its float32 weight."""
LENGTH_BYTES = 8
"""An int64 for each feature of each example."""
CACHED = EmbeddingComputeKernel.FUSED_UVM_CACHING.value


def comm_bytes(config: ShardingConfig, cluster: Cluster) -> int:
    """Of a number of a pooled vector, or of its gradient, on its way between processes."""
    quantized = config.quantize_comms and cluster.hardware.compute_device == "cuda"
    return 2 if quantized else 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int = 0
    optimizer: int = 0
    """State of the tables' optimiser."""
    cache: int = 0
    """Of uvm_caching on the GPU, with its bookkeeping."""
    buffers: int = 0
    """Rows and pooled vectors of a step, as TorchRec's planner estimates them."""
    in_main: bool = False
    """Whether weights and optimiser state are in main memory and the rest is not."""

    @property
    def hbm(self) -> int:
        """On a GPU."""
        return self.cache + self.buffers + (0 if self.in_main else self.weights + self.optimizer)

    @property
    def ddr(self) -> int:
        """In main memory, of a run on GPUs."""
        return self.weights + self.optimizer if self.in_main else 0


def memory(option: ShardingOption, shard: Shard, cuda: bool) -> Memory:
    """Bytes of one part of a table.

    Weights and optimiser state are exact: rows * D * bytes, and 4 bytes a row (the planner counts
    bytes of one element, which is too few for fp16). The cache is FBGEMM's: ``load_factor`` of
    the weights, and 4 + 16 * load_factor bytes a row (``_calculate_cache_aux_state_sizes`` of
    torchrec/distributed/planner/shard_estimators.py). The rest of the planner's estimate is what a
    step's inputs and outputs take.
    """
    rows, columns = shard.size
    weights = rows * columns * option.tensor.element_size()
    cached = option.compute_kernel == CACHED
    factor = (option.cache_load_factor or 0.0) if cached else 1.0
    counted = round(weights * factor)
    counted += math.ceil(counted / option.tensor.shape[1])
    cache = counted + math.ceil(rows * (4 + 16 * factor)) if cached else 0
    assert shard.storage is not None
    estimate = shard.storage.hbm if cuda else shard.storage.ddr
    buffers = max(0, estimate - (cache or counted))
    return Memory(weights, ADAGRAD_BYTES * rows, cache, buffers, cached)


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one process by where they are."""

    weights: int
    optimizer: int
    cache: int
    buffers: int
    hbm: int
    ddr: int

    @property
    def total(self) -> int:
        """On the GPU and in main memory."""
        return self.hbm + self.ddr


def rank_memory(options: Sequence[ShardingOption], cluster: Cluster) -> list[RankMemory]:
    """[W] what each process holds."""
    cuda = cluster.hardware.compute_device == "cuda"
    held: list[list[Memory]] = [[] for _ in range(cluster.world_size)]
    for option in options:
        for shard in option.shards:
            assert shard.rank is not None
            held[shard.rank].append(memory(option, shard, cuda))
    return [_together(parts, cuda) for parts in held]


def _together(parts: list[Memory], cuda: bool) -> RankMemory:
    hbm = sum(part.hbm for part in parts)
    return RankMemory(
        weights=sum(part.weights for part in parts),
        optimizer=sum(part.optimizer for part in parts),
        cache=sum(part.cache for part in parts),
        buffers=sum(part.buffers for part in parts),
        hbm=hbm if cuda else 0,
        ddr=sum(part.ddr for part in parts) if cuda else hbm,
    )


@dataclass
class Wire:
    """[W] bytes that each process sends in a step, within its node and to other nodes."""

    world_size: int
    ids_intra: Floats = field(init=False)
    """Rows, weights and lengths, to where the rows are."""
    ids_inter: Floats = field(init=False)
    forward_intra: Floats = field(init=False)
    """Pooled vectors, to where the examples are."""
    forward_inter: Floats = field(init=False)
    backward_intra: Floats = field(init=False)
    """Gradients of the pooled vectors, back."""
    backward_inter: Floats = field(init=False)

    def __post_init__(self) -> None:
        for name in self.names():
            setattr(self, name, np.zeros(self.world_size))

    @staticmethod
    def names() -> list[str]:
        """The six kinds of traffic."""
        return [item.name for item in fields(Wire) if item.name != "world_size"]

    def total(self) -> Floats:
        """[W] bytes of all kinds."""
        kinds: list[Floats] = [getattr(self, name) for name in self.names()]
        return np.asarray(sum(kinds))


def wire(
    options: Sequence[ShardingOption],
    features: dict[str, list[str]],
    cluster: Cluster,
    load: Load,
    number_bytes: int,
) -> Wire:
    """Bytes that each process sends in a step.

    Args:
        options: where tables are.
        features: table -> its features.
        cluster: of W processes.
        load: S and what each feature reads.
        number_bytes: of a number of a pooled vector, see ``comm_bytes``.
    """
    sent = Wire(cluster.world_size)
    for option in options:
        SENDERS[ShardingType(option.sharding_type)](
            sent, option, features[option.name], cluster, load, number_bytes
        )
    return sent


def _whole(
    sent: Wire,
    option: ShardingOption,
    features: list[str],
    cluster: Cluster,
    load: Load,
    number_bytes: int,
) -> None:
    """Parts with all rows (table_wise, column_wise): all-to-all with the owner of each.

    Forward, the owner sends S * F * D numbers to every other process, and gets as many gradients
    from each (TwPooledEmbeddingDist and CwPooledEmbeddingDist: PooledEmbeddingsAllToAll). Every
    process sends its rows and lengths to every owner.
    """
    ids = _ids(features, load) + len(features) * load.batch_size * LENGTH_BYTES
    for shard in option.shards:
        assert shard.rank is not None
        vectors = load.batch_size * len(features) * shard.size[1] * number_bytes
        near, far = _others(shard.rank, cluster)
        sent.forward_intra[shard.rank] += len(near) * vectors
        sent.forward_inter[shard.rank] += len(far) * vectors
        sent.backward_intra[near] += vectors
        sent.backward_inter[far] += vectors
        sent.ids_intra[near] += ids
        sent.ids_inter[far] += ids


def _row_wise(
    sent: Wire,
    option: ShardingOption,
    features: list[str],
    cluster: Cluster,
    load: Load,
    number_bytes: int,
) -> None:
    """Rows over all processes: reduce-scatter forward, all-gather backward (RwPooledEmbeddingDist).

    Each process sends (W - 1) * S * F * D numbers either way. NCCL does it by rings, which pass
    through a node before they leave it (nccl-tests, doc/PERFORMANCE.md): of L hops one leaves the
    node. Rows go where they belong, W - 1 of W elsewhere, with lengths for every process.
    """
    others = cluster.world_size - 1
    if not others:
        return
    size = load.batch_size * len(features)
    vectors = others * size * option.tensor.shape[1] * number_bytes
    leaving = 1 / cluster.local_world_size if cluster.num_nodes > 1 else 0.0
    for way in ("forward", "backward"):
        getattr(sent, f"{way}_intra")[:] += vectors * (1 - leaving)
        getattr(sent, f"{way}_inter")[:] += vectors * leaving
    near = cluster.local_world_size - 1
    apiece = _ids(features, load) / cluster.world_size + size * LENGTH_BYTES
    sent.ids_intra += near * apiece
    sent.ids_inter += (others - near) * apiece


def _node_row_wise(
    sent: Wire,
    option: ShardingOption,
    features: list[str],
    cluster: Cluster,
    load: Load,
    number_bytes: int,
) -> None:
    """Rows over the L processes of one node (TwRwPooledEmbeddingDist).

    Forward, those reduce-scatter what all W * S examples read: (L - 1) * N * S * F * D numbers
    each, within the node; then each sends S * F * D to its counterpart on each of the N - 1 other
    nodes. Backward, the counterparts send as much back, and the node all-gathers it.
    """
    size = load.batch_size * len(features)
    vectors = size * option.tensor.shape[1] * number_bytes
    owners = np.array([shard.rank for shard in option.shards])
    node = owners[0] // cluster.local_world_size
    elsewhere = np.arange(cluster.world_size) // cluster.local_world_size != node
    near, far = cluster.local_world_size - 1, cluster.num_nodes - 1
    for way in ("forward", "backward"):
        getattr(sent, f"{way}_intra")[owners] += near * cluster.num_nodes * vectors
    sent.forward_inter[owners] += far * vectors
    sent.backward_inter[elsewhere] += vectors
    apiece = _ids(features, load) / cluster.local_world_size + size * LENGTH_BYTES
    sent.ids_intra[~elsewhere] += near * apiece
    sent.ids_inter[elsewhere] += cluster.local_world_size * apiece


Sender = Callable[[Wire, ShardingOption, list[str], Cluster, Load, int], None]
SENDERS: dict[ShardingType, Sender] = {
    ShardingType.TABLE_WISE: _whole,
    ShardingType.COLUMN_WISE: _whole,
    ShardingType.ROW_WISE: _row_wise,
    ShardingType.TABLE_ROW_WISE: _node_row_wise,
}


def _ids(features: list[str], load: Load) -> float:
    """Bytes of the rows and weights that a process reads of a table in a step."""
    each = ID_BYTES + (WEIGHT_BYTES if load.weighted else 0)
    return sum(load.of(feature) for feature in features) * load.batch_size * each


def _others(rank: int, cluster: Cluster) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The other processes of a process's node, and those of other nodes."""
    ranks = np.arange(cluster.world_size)
    same = ranks // cluster.local_world_size == rank // cluster.local_world_size
    return ranks[same & (ranks != rank)], ranks[~same]
