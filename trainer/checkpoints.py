"""Checkpoints of a run: ``torch.distributed.checkpoint``, each process its own shards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from feature_repo.contract.artifacts import read_json, write_json
from feature_repo.contract.errors import ArtifactError
from trainer.distributed import Process
from trainer.embeddings import ShardedTables, module_name

PARTIAL = ".partial"


def save(
    folder: Path,
    tables: ShardedTables,
    dense: nn.Module,
    adam: torch.optim.Optimizer,
    progress: dict[str, Any],
    process: Process,
) -> None:
    """Write a checkpoint as a folder that is whole or absent; a collective."""
    temporary = folder.with_name(folder.name + PARTIAL)
    if process.is_first and temporary.exists():
        shutil.rmtree(temporary)
    process.barrier()
    dcp.save(_state(tables, dense, adam), checkpoint_id=str(temporary))
    if process.is_first:
        write_json(temporary / "progress.json", progress)
        write_json(temporary / "plan.json", _plan(tables))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    process.barrier()


def load(
    folder: Path, tables: ShardedTables, dense: nn.Module, adam: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load a checkpoint into a run of any number of processes; return its progress.

    Raises:
        ArtifactError: a value is missing, or of another shape than the model's.
    """
    _fill_adam(dense, adam)
    state = _state(tables, dense, adam)
    try:
        dcp.load(state, checkpoint_id=str(folder))
    except (RuntimeError, ValueError, OSError, dcp.CheckpointException) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{folder} is not a checkpoint of this run: {reason}") from error
    tables.sharded.load_state_dict(state["tables"])
    tables.fused_optimizer.load_state_dict(state["fused"])
    dense.load_state_dict(state["dense"])
    return dict(read_json(folder / "progress.json"))


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint ``step-N`` under ``folder``."""
    found = _steps(folder)
    return found[-1] if found else None


def prune(folder: Path, kept: int, process: Process) -> None:
    """Remove all checkpoints but the newest ``kept``, and what was cut short."""
    if process.is_first:
        for old in [*_steps(folder)[:-kept], *folder.glob(f"*{PARTIAL}")]:
            shutil.rmtree(old)
    process.barrier()


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _state(
    tables: ShardedTables, dense: nn.Module, adam: torch.optim.Optimizer
) -> dict[str, dict[str, Any]]:
    return {
        "tables": tables.sharded.state_dict(),
        "fused": tables.fused_optimizer.state_dict(),
        "dense": dense.state_dict(),
        "adam": _adam_state(dense, adam),
    }


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
