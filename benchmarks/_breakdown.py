"""Where the time of a training step goes, and how near its tables come to the memory's speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trainer.embeddings import ShardedTables
from trainer.step import StepInputs

PARTS = (
    ("tables, forward", ("codegen_forward",)),
    ("tables, backward and update", ("embedding_backward", "grad_indice_weights")),
    ("layers and loss: products", ("aten::mm", "aten::addmm", "aten::bmm", "gemm")),
    ("optimiser of the layers", ("Optimizer.step", "adam", "Adam")),
)
STATE_BYTES = 4
"""Of a row's row-wise Adagrad."""


def breakdown(
    steps: Callable[[Iterator[StepInputs]], Iterator[Tensor]],
    inputs: Sequence[StepInputs],
    tables: ShardedTables,
    device: torch.device,
) -> dict[str, float]:
    """Milliseconds of a step by part, and what its tables read and write.

    ``table bytes`` are those of every looked-up row, read once, and of every distinct row and its
    optimiser state, read and written once. ``GB/s`` is their number over the time of both table
    parts, ``copy GB/s`` what a copy within the same memory reads and writes.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    started = time.perf_counter()
    with profile(activities=activities) as found:
        for _ in steps(iter(inputs)):
            pass
        _synchronize(device)
    count = len(inputs)
    step_ms = (time.perf_counter() - started) / count * 1e3
    parts = _parts(found.key_averages(), device, count)
    in_tables = parts["tables, forward"] + parts["tables, backward and update"]
    moved = sum(table_bytes(given, tables) for given in inputs) / count
    return {
        **{f"{part} ms": took for part, took in parts.items()},
        "rest ms": max(0.0, step_ms - sum(parts.values())),
        "step ms": step_ms,
        "table MB": moved / 1e6,
        "GB/s": moved / 1e6 / max(in_tables, 1e-9),
        "copy GB/s": copy_rate(device) / 1e9,
    }


def _parts(events: Iterable[Any], device: torch.device, count: int) -> dict[str, float]:
    parts = {part: 0.0 for part, _ in PARTS}
    for event in events:
        name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        for part, words in PARTS:
            if any(word in event.key for word in words):
                parts[part] += getattr(event, name) / 1e3 / count
                break
    return parts


def table_bytes(inputs: StepInputs, tables: ShardedTables) -> int:
    """Bytes of table rows and optimiser states that a step reads and writes."""
    total = 0
    bags = inputs.features.to_dict()
    for table in tables.tables.values():
        rows = torch.cat([bags[feature].values() for feature in table.features])
        row_bytes = table.dim * (2 if table.dtype.value == "fp16" else 4)
        distinct = len(torch.unique(rows))
        total += len(rows) * row_bytes + 2 * distinct * (row_bytes + STATE_BYTES)
    return total


def copy_rate(device: torch.device, size: int = 1 << 28, rounds: int = 5) -> float:
    """Bytes a second that copying ``size`` bytes reads and writes; the best of some rounds."""
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(rounds):
        _synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
