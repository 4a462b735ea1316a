"""Three small tables trained under one strategy; ``__main__`` is one process of a run.

It reads its place from torchrun's variables and prints, in the first process, one line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torch.profiler import ProfilerActivity, profile
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import DataType
from torchrec.optim import RowWiseAdagrad

from feature_repo.contract.embedded import free_port
from feature_repo.contract.errors import ConfigError
from trainer.distributed import Device, Process, process_group, set_up_logging
from trainer.hardware import here
from trainer.sharding import Cluster, Load, local_world_size, plan, sharders
from trainer.sharding_config import ShardingConfig, Strategy

ROWS = {"user_id": 201, "item_id": 150, "age": 6}
DIM = 16
COLLECTIVES = ("_reduce_scatter_base_", "_allgather_base_")
EXAMPLES = 8
"""Of a step, over all processes; each reads two rows of each table."""


class Tables(nn.Module):
    """What DistributedModelParallel wraps."""

    def __init__(self, bags: EmbeddingBagCollection) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, features: KeyedJaggedTensor) -> Any:
        """Pooled rows."""
        return self.bags(features)


def collection(
    rows: Mapping[str, int] = ROWS, dim: int = DIM, dtype: DataType = DataType.FP32
) -> Tables:
    """Tables on the meta device, each with a feature of its name."""
    configs = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=size,
            embedding_dim=dim,
            feature_names=[name],
            data_type=dtype,
            init_fn=_leave,
        )
        for name, size in rows.items()
    ]
    bags = EmbeddingBagCollection(tables=configs, is_weighted=True, device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, bags.parameters(), {"lr": 0.1, "eps": 1e-8})
    return Tables(bags)


def _leave(weight: Tensor) -> Tensor:
    return weight


def train(process: Process, config: ShardingConfig) -> dict[str, Any]:
    """Where the tables are, and the losses of six steps; a collective."""
    local = local_world_size(process.world_size)
    cluster = Cluster(here(process.device, local), process.world_size, local)
    group = dist.group.WORLD if process.world_size > 1 else None
    module = collection()
    found = plan(module, config, cluster, Load(EXAMPLES // process.world_size, {}), group)
    sharded = DistributedModelParallel(
        module,
        device=process.device,
        plan=found,
        sharders=sharders("cpu", config),
    )
    _fill(sharded)
    losses = [_step(sharded, process, step) for step in range(5)]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        losses.append(_step(sharded, process, 5))
    places: Any = found.plan["bags"]
    return {
        "losses": losses,
        "sent": {name: _sent(profiler.events(), name) for name in COLLECTIVES},
        "ranks": {name: places[name].ranks for name in ROWS},
        "types": {name: places[name].sharding_type for name in ROWS},
    }


def _sent(events: Any, name: str) -> int:
    """Numbers that this process sent to others by a kind of collective."""
    total = 0
    for event in events:
        if event.name == f"c10d::{name}":
            first, second = (math.prod(shape) for shape in event.input_shapes[:2])
            total += abs(first - second)  # output and input: one holds what all others get
    return total


def _fill(sharded: nn.Module) -> None:
    """The same first values however the tables are cut."""
    state = sharded.state_dict()
    for name, rows in ROWS.items():
        whole = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(rows))
        for shard in state[f"bags.embedding_bags.{name}.weight"].local_shards():
            row, column = shard.metadata.shard_offsets
            size = shard.tensor.shape
            shard.tensor.copy_(whole[row : row + size[0], column : column + size[1]])


def _step(sharded: nn.Module, process: Process, step: int) -> float:
    generator = torch.Generator().manual_seed(step)
    drawn = [torch.randint(0, rows, (EXAMPLES, 2), generator=generator) for rows in ROWS.values()]
    mine = slice(process.rank, None, process.world_size)
    values = torch.cat([ids[mine].flatten() for ids in drawn])
    features = KeyedJaggedTensor(
        keys=list(ROWS),
        values=values,
        lengths=torch.full((len(values) // 2,), 2),
        weights=torch.ones(len(values)),
    )
    pooled = sharded(features)
    vectors = (pooled.wait() if hasattr(pooled, "wait") else pooled).to_dict()
    loss = ((torch.cat(list(vectors.values()), dim=1) - 1) ** 2).mean()
    loss.backward()
    return process.mean(float(loss.detach()))


def run(world_size: int, local_size: int, *settings: str) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each process of a run, ``local_size`` on each "node".

    Args:
        world_size: processes.
        local_size: how many believe that they are on one machine.
        settings: the strategy's name, and the main memory that it may use in GB.
    """
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.sharded", *settings],
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank % local_size),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(local_size),
            },
        )
        for rank in range(world_size)
    ]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        ended.append((process.returncode, out, err))
    return ended


def main(strategy: str, ddr_gb: str | None = None) -> int:
    """Be one process of a run."""
    set_up_logging()
    room = None if ddr_gb is None else float(ddr_gb)
    config = ShardingConfig(
        strategy=Strategy[strategy], row_wise_from=100, column_dim=4, ddr_gb=room
    )
    with process_group(Device.cpu) as process:
        try:
            found = train(process, config)
        except ConfigError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        if process.is_first:
            sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
