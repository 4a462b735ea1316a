"""Embedding tables of any size, spread over the processes of a run: TorchRec.

Shapes: B examples, D width of a table.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import DataType, PoolingType
from torchrec.optim import RowWiseAdagrad

from feature_repo.contract.artifacts import write_json
from feature_repo.contract.encoding import Bag, TableSpec
from feature_repo.contract.errors import BadInput, ConfigError
from feature_repo.contract.randomness import key
from feature_repo.contract.tables import TableFile, TableForm
from trainer.config import OptimizerConfig, Precision
from trainer.distributed import Process
from trainer.hardware import here
from trainer.randomness import Stream
from trainer.sharding import Cluster, Load, local_world_size, plan, sharders
from trainer.sharding_config import ShardingConfig

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
FILL_ROWS = 1 << 14
"""Rows that get their first values from one generator."""
EXPORT_ROWS = 1 << 18
"""Rows that are written at once."""


@dataclass(frozen=True)
class TableConfig:
    """One embedding table and how it is trained."""

    name: str
    num_rows: int
    dim: int
    """A multiple of 4."""
    features: tuple[str, ...]
    init_std: float
    lr: float
    dtype: Precision = Precision.fp32

    @staticmethod
    def of_specs(
        specs: Iterable[TableSpec], dims: Mapping[str, int], default_dim: int, opt: OptimizerConfig
    ) -> tuple[TableConfig, ...]:
        """Tables for an encoder's specs; ``dims`` names those that are not ``default_dim`` wide.

        Raises:
            ConfigError: ``opt.table_lrs`` names a table that there is not.
        """
        specs = tuple(specs)
        unknown = sorted(set(opt.table_lrs) - {spec.name for spec in specs})
        if unknown:
            raise ConfigError(
                f"optimizer.table_lrs names {unknown}, which are no tables of this model; it has "
                f"{sorted(spec.name for spec in specs)}."
            )
        return tuple(
            TableConfig(
                spec.name,
                spec.num_rows,
                dims.get(spec.name, default_dim),
                spec.features,
                opt.init_std,
                opt.table_lrs.get(spec.name, opt.table_lr),
                opt.table_dtype,
            )
            for spec in specs
        )


class _Tables(nn.Module):
    """What DistributedModelParallel wraps: a module that contains the collection."""

    def __init__(self, bags: EmbeddingBagCollection) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, features: KeyedJaggedTensor) -> Any:
        return self.bags(features)


class ShardedTables(nn.Module):
    """Weighted embedding bags with fused row-wise Adagrad, sharded over the run's processes.

    Every process must call it, and its collective methods, equally often.
    """

    def __init__(
        self,
        tables: tuple[TableConfig, ...],
        process: Process,
        sharding: ShardingConfig,
        load: Load,
        *,
        seed: int,
        eps: float = 1e-8,
        weighted: bool = True,
    ) -> None:
        """Plan, cut and fill the tables; a collective.

        Args:
            tables: names, sizes and learning rates.
            process: this one.
            sharding: how to cut them.
            load: what a process reads in a step, for the plan.
            seed: of the first values.
            eps: of the optimiser.
            weighted: whether rows of a bag have weights; without, a step is cheaper.

        Raises:
            NoRoom: the tables do not fit.
        """
        super().__init__()
        self.tables = {table.name: table for table in tables}
        self.process = process
        self.out_of_range: Counter[str] = Counter()
        """Feature -> rows that were read as "unknown", for they lie outside of their table."""
        self.feature_rows = {
            feature: table.num_rows for table in tables for feature in table.features
        }
        self.weighted = weighted
        whole = meta_tables(tables, eps, weighted)
        local = local_world_size(process.world_size)
        cluster = Cluster(here(process.device, local), process.world_size, local)
        group = None if process.world_size == 1 else dist.group.WORLD
        self.plan = plan(whole, sharding, cluster, load, group)
        self.sharded = DistributedModelParallel(
            whole,
            device=process.device,
            plan=self.plan,
            sharders=sharders(process.device.type, sharding),
        )
        for table in tables:
            for row, column, values in self.local_shards(table.name):
                _fill(values, row, column, table, seed)
        self._lrs = [float(group["lr"]) for group in self.fused_optimizer.param_groups]
        self._factor = 1.0

    def features(self, bags: Mapping[str, Bag], stride: int) -> KeyedJaggedTensor:
        """The bags as the sharded tables read them, with empty examples up to ``stride``.

        TorchRec wants the same stride on every process. A row outside of its table, which TorchRec
        would silently read as row 0 or worse, is read as row 0 ("unknown") and counted.

        Raises:
            BadInput: a feature is unknown or missing.
        """
        unknown = sorted(set(self.feature_rows) ^ set(bags))
        if unknown:
            raise BadInput(f"The tables read {sorted(self.feature_rows)}; {unknown} do not match.")
        known = {name: self._in_range(name, bag) for name, bag in bags.items()}
        return to_kjt(known, stride, self.weighted)

    def _in_range(self, name: str, bag: Bag) -> Bag:
        num_rows = self.feature_rows[name]
        if not len(bag.values) or 0 <= bag.values.min() <= bag.values.max() < num_rows:
            return bag
        outside = (bag.values < 0) | (bag.values >= num_rows)
        if not self.out_of_range[name]:
            example = int(bag.values[outside][0])
            log.warning(
                "Feature %s has row %d, its table only %d rows: read as unknown, and counted.",
                name,
                example,
                num_rows,
            )
        self.out_of_range[name] += int(outside.sum())
        return Bag(np.where(outside, 0, bag.values), bag.offsets, bag.weights)

    def forward(self, bags: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Feature -> [B, D] weighted sums of rows; zero for an empty bag.

        A collective: every process gives equally many examples.
        """
        features = self.features(bags, len(next(iter(bags.values())).offsets) - 1)
        return pooled_of(self.sharded(features.to(self.process.device)))

    @property
    def fused_optimizer(self) -> Any:
        """The optimiser that runs inside of the backward pass; a TorchRec KeyedOptimizer."""
        return self.sharded.fused_optimizer

    def scale_lr(self, factor: float) -> None:
        """Set every table's learning rate to ``factor`` times its own."""
        if factor == self._factor:
            return
        self._factor = factor
        for group, own in zip(self.fused_optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = own * factor
        self.fused_optimizer.step()  # hands the rates to the kernels; updates nothing itself

    def local_shards(self, table: str) -> list[tuple[int, int, Tensor]]:
        """This process's parts of a table: (first row, first column, values [R, D])."""
        state = self.sharded.state_dict()
        weight = state[f"bags.embedding_bags.{module_name(table)}.weight"]
        if not hasattr(weight, "local_shards"):
            return [(0, 0, weight.detach())] if self.process.is_first else []
        return [
            (*(int(start) for start in shard.metadata.shard_offsets), shard.tensor.detach())
            for shard in weight.local_shards()
        ]

    def rows_of(self, table: str, start: int, stop: int) -> Floats:
        """[stop - start, D] rows of a table; zero where another process holds them."""
        config = self.tables[table]
        found = np.zeros((stop - start, config.dim), dtype=np.float32)
        for row, column, values in self.local_shards(table):
            low, high = max(row, start), min(row + len(values), stop)
            if low < high:
                part = values[low - row : high - row].float().cpu().numpy()
                found[low - start : high - start, column : column + values.shape[1]] = part
        return found

    def export_tables(self, folder: Path, form: TableForm = TableForm.fp32) -> None:
        """Write all tables as ``contract.Tables`` reads them, each process its own rows.

        A collective: ``folder`` lies on a disk that all processes share. No table is ever
        gathered in one process.

        Raises:
            ConfigError: ``int8``, and a table's columns lie on several processes.
        """
        if self.process.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            for table in self.tables.values():
                TableFile.create(folder, table.name, table.num_rows, table.dim, form)
            owners = {name: t.name for t in self.tables.values() for name in t.features}
            write_json(folder / "tables.json", owners)
        self.process.barrier()
        for table in self.tables.values():
            self._export_table(folder, table)
        self.process.barrier()

    def _export_table(self, folder: Path, table: TableConfig) -> None:
        shards = self.local_shards(table.name)
        if not shards:
            return
        target = TableFile.open(folder, table.name)
        for row, column, values in shards:
            for start in range(0, len(values), EXPORT_ROWS):
                part = values[start : start + EXPORT_ROWS].float().cpu().numpy()
                target.write(row + start, column, part)
        target.flush()


def pooled_of(found: Any) -> dict[str, Tensor]:
    """Feature -> [B, D], from what sharded tables answer."""
    vectors = found.wait() if hasattr(found, "wait") else found
    return dict(vectors.to_dict())


def to_kjt(
    bags: Mapping[str, Bag], stride: int | None = None, weighted: bool = True
) -> KeyedJaggedTensor:
    """Feature -> bags of the same B examples, as a KeyedJaggedTensor.

    Args:
        bags: the examples.
        stride: how many examples to fill up to, with empty ones; by default B.
        weighted: whether to give weights; a bag without counts each row once.
    """
    size = len(next(iter(bags.values())).offsets) - 1
    padding = max(0, (stride or size) - size)
    values = np.concatenate([bag.values for bag in bags.values()])
    lengths = np.concatenate(
        [np.diff(bag.offsets, append=[bag.offsets[-1]] * padding) for bag in bags.values()]
    )
    return KeyedJaggedTensor(
        keys=list(bags),
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths.astype(np.int64)),
        weights=torch.from_numpy(_weights(bags)) if weighted else None,
    )


def _weights(bags: Mapping[str, Bag]) -> Floats:
    parts = [
        np.ones(len(bag.values), np.float32) if bag.weights is None else bag.weights
        for bag in bags.values()
    ]
    return np.concatenate(parts)


def stack(first: Mapping[str, Bag], second: Mapping[str, Bag]) -> dict[str, Bag]:
    """Bags of B1 examples above those of B2 others; what the other side lacks is empty."""
    num_first = len(next(iter(first.values())).offsets) - 1
    num_second = len(next(iter(second.values())).offsets) - 1
    stacked = {}
    for name, bag in first.items():
        tail = np.full(num_second, bag.offsets[-1], dtype=np.int64)
        stacked[name] = Bag(bag.values, np.concatenate([bag.offsets, tail]), bag.weights)
    for name, bag in second.items():
        head = np.zeros(num_first, dtype=np.int64)
        stacked[name] = Bag(bag.values, np.concatenate([head, bag.offsets]), bag.weights)
    return stacked


def module_name(table: str) -> str:
    """The table's name in torch: a feature may be called ``children``, a torch module may not."""
    return f"{table}_table"


def meta_tables(
    tables: tuple[TableConfig, ...], eps: float = 1e-8, weighted: bool = True
) -> nn.Module:
    """The tables as TorchRec takes them, on the meta device: they take no memory."""
    configs = [
        EmbeddingBagConfig(
            name=module_name(table.name),
            num_embeddings=table.num_rows,
            embedding_dim=table.dim,
            feature_names=list(table.features),
            pooling=PoolingType.SUM,
            init_fn=_leave,
            data_type=DataType(table.dtype.name.upper()),
        )
        for table in tables
    ]
    bags = EmbeddingBagCollection(tables=configs, is_weighted=weighted, device=torch.device("meta"))
    for table in tables:
        parameters = bags.embedding_bags[module_name(table.name)].parameters()
        apply_optimizer_in_backward(RowWiseAdagrad, parameters, {"lr": table.lr, "eps": eps})
    return _Tables(bags)


def _leave(weight: Tensor) -> Tensor:
    """First values come later, by ``_fill``: here it is not known which rows a shard has."""
    return weight


def _fill(values: Tensor, row: int, column: int, table: TableConfig, seed: int) -> None:
    """First values of a shard: normal, and the same however the table is cut."""
    name = zlib.crc32(table.name.encode())
    for block in range(row // FILL_ROWS, -(-(row + len(values)) // FILL_ROWS)):
        chosen = int(key(seed, Stream.TABLES, name, block) >> np.uint64(1))
        generator = torch.Generator().manual_seed(chosen)
        drawn = torch.empty(FILL_ROWS, table.dim).normal_(std=table.init_std, generator=generator)
        low = max(row, block * FILL_ROWS)
        high = min(row + len(values), (block + 1) * FILL_ROWS)
        part = drawn[low - block * FILL_ROWS : high - block * FILL_ROWS]
        values[low - row : high - row] = part[:, column : column + values.shape[1]]
