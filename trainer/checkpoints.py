"""Checkpoints of a run: ``torch.distributed.checkpoint``, each process its own shards.

Tables are presented in chunks of rows, so that saving and loading copy a chunk at a time and not
a table, and so that any number of processes can load what another number saved.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharding_spec import ShardMetadata

from feature_repo.contract.artifacts import fsync, read_json, write_json
from feature_repo.contract.errors import ArtifactError
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, module_name

PARTIAL = ".partial"
STEP = "step"
BEST = "best"
CHUNK_ROWS = 1 << 20

State = dict[str, dict[str, Any]]


def save(
    folder: Path,
    tables: ShardedTables,
    dense: nn.Module,
    adam: torch.optim.Optimizer,
    progress: dict[str, Any],
    process: Process,
) -> None:
    """Write a checkpoint as a folder that is whole or absent; a collective.

    One that is there already is left as it is: its name says after which step it was written.
    """
    if process.any(folder.exists()):
        return
    temporary = folder.with_name(folder.name + PARTIAL)
    if process.is_first and temporary.exists():
        shutil.rmtree(temporary)
    process.barrier()
    dcp.save(_state(tables, dense, adam), checkpoint_id=str(temporary))
    if process.is_first:
        write_json(temporary / "progress.json", progress)
        write_json(temporary / "plan.json", _plan(tables))
        os.replace(temporary, folder)
        fsync(folder.parent)
    process.barrier()


def load(
    folder: Path, tables: ShardedTables, dense: nn.Module, adam: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load a checkpoint into a run of any number of processes; return its progress.

    Raises:
        ArtifactError: a value is missing, is one too many, or has another shape than the model's.
    """
    saved = _saved(folder)
    _fill_adam(dense, adam)
    state = _state(tables, dense, adam)
    _require_same_keys(folder, state, saved, tables.process)
    _read(folder, state, dense)
    return dict(read_json(folder / "progress.json"))


def warm_start(
    folder: Path, tables: ShardedTables, dense: nn.Module, adam: torch.optim.Optimizer
) -> None:
    """Begin with the values of an earlier run, whose tables may have fewer rows.

    Raises:
        ArtifactError: the earlier run's model is another one, or a table of it has more rows.
    """
    saved = _saved(folder)
    _fill_adam(dense, adam)

    def rows(key: str, tensor: ShardedTensor) -> int:
        found, own = saved.get(key), tensor.metadata().size[0]
        num_rows = own if found is None else int(found.size[0])
        if num_rows > own:
            raise ArtifactError(
                f"{key} has {num_rows} rows in {folder}, but {own} in this run: a vocabulary "
                "can only grow."
            )
        return num_rows

    state = _state(tables, dense, adam, rows)
    _require_same_keys(folder, state, saved, tables.process)
    _read(folder, state, dense)


def latest(folder: Path, kind: str = STEP) -> Path | None:
    """The newest whole checkpoint of a kind under ``folder``."""
    found = _of_kind(folder, kind)
    return found[-1] if found else None


def prune(folder: Path, kept: int, process: Process) -> None:
    """Remove what was cut short, and all but the newest ``kept`` checkpoints and the best one."""
    if process.is_first:
        old = [*_of_kind(folder, STEP)[:-kept], *_of_kind(folder, BEST)[:-1]]
        for path in [*old, *folder.glob(f"*{PARTIAL}")]:
            shutil.rmtree(path)
    process.barrier()


def _of_kind(folder: Path, kind: str) -> list[Path]:
    start = len(kind) + 1
    found = [path for path in folder.glob(f"{kind}-*") if path.name[start:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[start:]))


def _saved(folder: Path) -> dict[str, Any]:
    try:
        return dict(dcp.FileSystemReader(folder).read_metadata().state_dict_metadata)
    except (OSError, EOFError, ValueError, dcp.CheckpointException) as error:
        raise ArtifactError(f"{folder} is no whole checkpoint: {error}") from error


def _read(folder: Path, state: State, dense: nn.Module) -> None:
    """Read into the very memory of tables and optimisers."""
    try:
        dcp.load(state, checkpoint_id=str(folder))
    except (RuntimeError, ValueError, OSError, EOFError, dcp.CheckpointException) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ArtifactError(f"{folder} is not a checkpoint of this run: {lines[-1]}") from error
    dense.load_state_dict(state["dense"])


def _require_same_keys(folder: Path, state: State, saved: dict[str, Any], process: Process) -> None:
    """Of all processes: the optimiser state of a table is known where the table lies."""
    mine = {f"{group}.{key}" for group, values in state.items() for key in values}
    own = process.union(mine)
    missing, extra = sorted(own - saved.keys()), sorted(saved.keys() - own)
    if missing or extra:
        raise ArtifactError(
            f"{folder} is not a checkpoint of this run: it lacks {missing or 'nothing'} and holds "
            f"{extra or 'nothing'} that the model has not."
        )


def _state(
    tables: ShardedTables,
    dense: nn.Module,
    adam: torch.optim.Optimizer,
    rows: Callable[[str, ShardedTensor], int] | None = None,
) -> State:
    """Views of everything that is trained; of each table the first ``rows`` rows, or all."""
    state: State = {"tables": {}, "momentum": {}}
    for group, key, tensor in _sharded(tables):
        num_rows = tensor.metadata().size[0] if rows is None else rows(f"{group}.{key}", tensor)
        state[group][key] = chunked(tensor, num_rows)
    return {**state, "dense": dense.state_dict(), "adam": _adam_state(dense, adam)}


def _sharded(tables: ShardedTables) -> list[tuple[str, str, ShardedTensor]]:
    """(group, key, value) of each table and of each optimiser state of a table."""
    names = {module_name(name): name for name in tables.tables}
    found = [
        ("tables", names[key.split(".")[-2]], value)
        for key, value in tables.sharded.state_dict().items()
    ]
    for state in tables.fused_optimizer.state_dict()["state"].values():
        for key, value in state.items():
            table, _, kind = key.rpartition(".")
            found.append(("momentum", f"{names[table]}.{kind}", value))
    return found


def chunked(tensor: ShardedTensor, num_rows: int, chunk_rows: int = CHUNK_ROWS) -> ShardedTensor:
    """The first ``num_rows`` rows of a sharded tensor, as shards of few rows over its memory."""
    metadata = tensor.metadata()
    pieces = [
        piece
        for shard in metadata.shards_metadata
        for piece in _pieces(shard, num_rows, chunk_rows)
    ]
    local = [
        Shard(_view(shard.tensor, shard.metadata, piece), piece)
        for shard in tensor.local_shards()
        for piece in _pieces(shard.metadata, num_rows, chunk_rows)
    ]
    size = torch.Size([num_rows, *metadata.size[1:]])
    with warnings.catch_warnings():  # torchrec's own kind of tensor, which torch is to replace
        warnings.simplefilter("ignore", FutureWarning)
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            local,
            replace(metadata, shards_metadata=pieces, size=size),
            process_group=tensor._process_group,
        )


def _pieces(shard: ShardMetadata, num_rows: int, chunk_rows: int) -> list[ShardMetadata]:
    first = shard.shard_offsets[0]
    last = min(first + shard.shard_sizes[0], num_rows)
    return [
        ShardMetadata(
            [start, *shard.shard_offsets[1:]],
            [min(chunk_rows, last - start), *shard.shard_sizes[1:]],
            shard.placement,
        )
        for start in range(first, last, chunk_rows)
    ]


def _view(tensor: Tensor, shard: ShardMetadata, piece: ShardMetadata) -> Tensor:
    start = piece.shard_offsets[0] - shard.shard_offsets[0]
    return tensor.detach()[start : start + piece.shard_sizes[0]]


def _adam_state(dense: nn.Module, adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The very tensors of Adam's state, by the names of their parameters."""
    return {
        f"{name}.{key}": value
        for name, parameter in dense.named_parameters()
        for key, value in adam.state[parameter].items()
    }


def _fill_adam(dense: nn.Module, adam: torch.optim.Optimizer) -> None:
    """Give Adam its (zero) state without moving a parameter, so that loading finds it."""
    rates = [group["lr"] for group in adam.param_groups]
    for group in adam.param_groups:
        group["lr"] = 0.0
    for parameter in dense.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam.step()
    adam.zero_grad()
    for group, rate in zip(adam.param_groups, rates, strict=True):
        group["lr"] = rate


def _plan(tables: ShardedTables) -> dict[str, Any]:
    """How each table was cut, for people and for a later reader."""
    plan: Any = tables.plan.get_plan_for_module("bags")
    return {
        name: {
            "sharding_type": str(plan[module_name(name)].sharding_type),
            "compute_kernel": str(plan[module_name(name)].compute_kernel),
            "ranks": list(plan[module_name(name)].ranks or []),
            "num_rows": table.num_rows,
            "dim": table.dim,
        }
        for name, table in tables.tables.items()
    }
