"""Plans as text, and what to change where one does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from trainer.hardware import GB
from trainer.planning.result import Placed, Plan

SMALL = 1000
"""Tables under one part in so many of all bytes are shown together."""
WORDS = ("sharding", "kernel", "processes")
"""Columns that hold no numbers."""


@dataclass(frozen=True)
class Remedy:
    """A change of the settings with which the tables fit."""

    overrides: tuple[str, ...]
    plan: Plan


def describe(plan: Plan) -> str:
    """The plan as text."""
    return "\n".join([*_title(plan), "", *_tables(plan), "", *_memory(plan), "", *_traffic(plan)])


def _title(plan: Plan) -> list[str]:
    config, cluster = plan.config, plan.config.cluster
    total = sum(table.bytes for table in plan.tables)
    sizes = f"{cluster.world_size} x {config.device.value}"
    if cluster.num_nodes > 1:
        sizes += f", {cluster.local_world_size} on each of {cluster.num_nodes} nodes"
    return [
        f"{config.experiment}: {len(plan.tables)} tables, {total / GB:.2f} GB in "
        f"{config.optimizer.table_dtype.value}, on {sizes}; "
        f"sharding={config.sharding.strategy.value}",
        f"A step: {config.trainer.batch_size:,} examples in all, "
        f"{plan.workload.load.batch_size:,} of users and items for each process",
        f"Features: {plan.workload.source}",
    ]


def _tables(plan: Plan) -> list[str]:
    small = sum(table.bytes for table in plan.tables) / SMALL
    order = sorted(plan.tables, key=lambda table: (-table.bytes, table.table))
    rows = [
        [t.table, f"{t.num_rows:,}", str(t.dim), _size(t.bytes), t.sharding, t.kernel, _ranks(t)]
        for t in order
        if t.bytes >= small
    ]
    rest = [table for table in order if table.bytes < small]
    if rest:
        rows.append(_together(rest))
    return _grid(["table", "rows", "dim", "bytes", "sharding", "kernel", "processes"], rows)


def _together(tables: list[Placed]) -> list[str]:
    """One line for small tables; ``--json`` has each."""
    dims, kinds, kernels = (
        sorted({str(getattr(table, name)) for table in tables})
        for name in ("dim", "sharding", "kernel")
    )
    ranks = {rank for table in tables for rank in table.ranks}
    return [
        f"{len(tables)} small ones",
        f"{sum(table.num_rows for table in tables):,}",
        ", ".join(dims),
        _size(sum(table.bytes for table in tables)),
        ", ".join(kinds),
        ", ".join(kernels),
        f"{len(ranks)} of them" if len(ranks) > 1 else str(*ranks),
    ]


def _ranks(table: Placed) -> str:
    """Such as ``0-63``, or ``0, 3, 6``."""
    ranks = table.ranks
    if len(ranks) > 1 and ranks == list(range(ranks[0], ranks[0] + len(ranks))):
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _memory(plan: Plan) -> list[str]:
    ranks = sorted(range(len(plan.memory)), key=lambda rank: -plan.memory[rank].total)
    shown = {"fullest": ranks[0], "median": ranks[len(ranks) // 2], "emptiest": ranks[-1]}
    shown = {"only": 0} if len(ranks) == 1 else shown
    rows = [
        [f"{name} ({rank})", *(_size(value) for value in asdict(plan.memory[rank]).values())]
        for name, rank in shown.items()
    ]
    offer = ["may use", "", "", "", "", _size(plan.offered_hbm), _size(plan.offered_ddr)]
    head = ["memory of", "weights", "optimiser", "cache", "buffers", "GPU memory", "main memory"]
    return _grid(head, [*rows, offer])


def _traffic(plan: Plan) -> list[str]:
    if len(plan.memory) == 1:
        return ["One process sends nothing.", *_time(plan)]
    sent, busiest = plan.wire, int(plan.wire.total().argmax())
    ways = {"ids": "ids", "vectors, forward": "forward", "gradients, backward": "backward"}
    rows = []
    for said, name in ways.items():
        near, far = (getattr(sent, f"{name}_{where}") for where in ("intra", "inter"))
        rows.append([said, *map(_size, (near[busiest], far[busiest], near.mean(), far.mean()))])
    head = ["sent in a step", f"process {busiest}: in node", "outside", "mean: in node", "outside"]
    return [*_grid(head, rows), _links(plan), "", *_time(plan)]


def _links(plan: Plan) -> str:
    """How long the links take, were they full all the time."""
    hardware, sent = plan.config.device.hardware, plan.wire
    spent = [
        1e3 * float(np.max(near / hardware.intra_bytes_s + far / hardware.inter_bytes_s))
        for near, far in (
            (sent.ids_intra, sent.ids_inter),
            (sent.forward_intra, sent.forward_inter),
            (sent.backward_intra, sent.backward_inter),
        )
    ]
    ids, forward, backward = (f"{ms:.3g}" for ms in spent)
    return f"full links take {ids} ms for ids, {forward} ms forward and {backward} ms backward"


def _time(plan: Plan) -> list[str]:
    times, dense = plan.times, plan.workload.dense
    scores = f" and {dense.scores:,.0f} scores" if dense.scores else ""
    return [
        f"Estimated for a step of the slowest process: {times.total + plan.dense_ms:.3g} ms, "
        "nothing overlapped",
        f"  tables {times.total:.3g}: forward {times.forward_compute:.3g} + "
        f"{times.forward_comms:.3g} sending, backward {times.backward_compute:.3g} + "
        f"{times.backward_comms:.3g} sending, prefetch {times.prefetch:.3g}",
        f"  dense layers {plan.dense_ms:.3g} at the full rate of "
        f"{plan.config.trainer.compute.value}: {dense.num_weights:,} weights{scores}, "
        f"{_size(dense.bytes)}",
    ]


def explain(said: str, found: Sequence[Remedy]) -> str:
    """What does not fit, and what would.

    Args:
        said: why the plan does not fit.
        found: changes with which it does.
    """
    if not found:
        return f"{said}\nNo change that was tried is enough: fewer users, items or columns are."
    overrides = [" ".join(remedy.overrides) for remedy in found]
    rows = [[text, *_room(remedy.plan)] for text, remedy in zip(overrides, found, strict=True)]
    head = ["change", "tables: GPU", "of", "main memory", "of", "dense layers", "of"]
    return "\n".join([said, "Any one of these changes makes it fit:", "", *_grid(head, rows)])


def _room(plan: Plan) -> list[str]:
    """Bytes of the fullest process, beside what it may use."""
    part = plan.memory[plan.fullest]
    tables = (part.hbm, plan.offered_hbm, part.ddr, plan.offered_ddr)
    return [_size(size) for size in (*tables, plan.workload.dense.bytes, plan.beside)]


def _size(value: float) -> str:
    """Such as ``51.20 GB``, in powers of ten."""
    for unit, size in (("GB", GB), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} B"


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns of their own width: the first to the left, numbers to the right."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    left = {0, *(i for i, name in enumerate(head) if name in WORDS)}
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
