"""The plots of an evaluation, as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy

from feature_repo.contract.artifacts import atomic_path
from trainer.evaluation.markdown import TITLES, decimal
from trainer.evaluation.result import Evaluation, MethodResult, TaskResult

SYSTEM = "#0b57d0"
COLOURS = {
    "own_frequency": "#d9660a",
    "ials": "#178a5b",
    "ease": "#7c4dbd",
    "item_knn": "#b83280",
    "recent_popular": "#5b6470",
    "popular": "#98a1ad",
}
INK, SOFT, GRID = "#1f2430", "#5b6470", "#e4e7ec"
DPI = 160
LABEL_GAP = 0.055
"""Least distance of two labels, as a share of the panel's height."""

Panel = Callable[[Axes, TaskResult, Evaluation], None]


def draw_all(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw every plot into ``folder``; return the files."""
    title = f"{evaluation.dataset}, {evaluation.split} window from {evaluation.cutoff[:10]}"
    plots: list[tuple[str, str, Panel]] = [
        ("ndcg.png", "NDCG@{k} with 95% intervals", _ndcg_panel),
        ("coverage.png", "Accuracy against how much of the catalogue is shown", _coverage_panel),
        ("segments.png", "NDCG@{k} by how often a user shopped before", _segments_panel),
    ]
    for name, heading, panel in plots:
        save_figure(
            _figure(evaluation, heading.format(k=evaluation.k), title, panel), folder / name
        )
    return [folder / name for name, _, _ in plots]


def _figure(evaluation: Evaluation, heading: str, about: str, panel: Panel) -> Figure:
    tasks = list(evaluation.tasks.items())
    figure = Figure(figsize=(5.4 * len(tasks), 4.2), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, (name, task) in zip(axes, tasks, strict=True):
        _style(axis)
        axis.set_title(
            f"{TITLES.get(name, name)}  ({task.users:,} users)",
            loc="left",
            fontsize=10,
            color=INK,
        )
        panel(axis, task, evaluation)
    figure.suptitle(heading, x=0.012, y=0.985, ha="left", fontsize=13, weight="bold", color=INK)
    figure.text(0.012, 0.892, about, ha="left", fontsize=9, color=SOFT)
    figure.tight_layout(rect=(0, 0, 1, 0.95), w_pad=2.5)
    return figure


def without_box(axis: Axes, size: float = 8) -> None:
    """Leave of an axis' frame the left and the lower line, and names without marks."""
    axis.tick_params(labelsize=size, labelcolor=INK, length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _style(axis: Axes) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.tick_params(length=0, labelsize=9, labelcolor=SOFT)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def _colour(method: MethodResult) -> str:
    return SYSTEM if method.is_system else COLOURS.get(method.name, SOFT)


def _weight(method: MethodResult) -> str:
    return "bold" if method.is_system else "normal"


def _share(value: float, _: int | None = None) -> str:
    """``.4``, ``.015``, ``0``."""
    return f"{value:.4f}".rstrip("0").rstrip(".").replace("0.", ".", 1)


def _ticks() -> MaxNLocator:
    return MaxNLocator(5, steps=[1, 2, 5, 10])


def _name(axis: Axes, x: float, y: float, method: MethodResult, label: str, **place: Any) -> None:
    """Write a method's name in its colour."""
    colour, weight = _colour(method), _weight(method)
    axis.text(x, y, label, va="center", fontsize=9, color=colour, weight=weight, **place)


def _ndcg_panel(axis: Axes, task: TaskResult, evaluation: Evaluation) -> None:
    methods = sorted(task.methods, key=lambda method: method.metrics["ndcg"].mean)
    highest = max(method.metrics["ndcg"].high for method in methods)
    for place, method in enumerate(methods):
        found = method.metrics["ndcg"]
        colour = _colour(method)
        axis.plot([found.low, found.high], [place, place], color=colour, linewidth=3.2, alpha=0.35)
        axis.plot([found.mean], [place], "o", color=colour, markersize=7)
        axis.annotate(
            decimal(found.mean),
            (found.high, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
            weight=_weight(method),
        )
    axis.set_yticks(range(len(methods)), [method.label for method in methods])
    for label, method in zip(axis.get_yticklabels(), methods, strict=True):
        label.set_color(INK)
        label.set_fontweight(_weight(method))
    axis.set_xlim(0, highest * 1.14)
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.xaxis.set_major_locator(_ticks())
    axis.xaxis.set_major_formatter(FuncFormatter(_share))
    axis.set_xlabel(f"NDCG@{evaluation.k}", fontsize=9, color=SOFT)


def _coverage_panel(axis: Axes, task: TaskResult, evaluation: Evaluation) -> None:
    spots = _spots(task.methods)
    axis.set_xscale("log")
    for x, y, method, _ in spots:
        order = 3 if method.is_system else 2
        axis.plot([x], [y], "o", color=_colour(method), markersize=9, zorder=order)
    xs, ys = [spot[0] for spot in spots], [spot[1] for spot in spots]
    room = (max(ys) - min(ys) or max(ys) or 1.0) * 0.15
    axis.set_xlim(min(xs) / 1.6, max(xs) * (max(xs) / min(xs)) ** 0.4 * 1.6)
    axis.set_ylim(max(0.0, min(ys) - room), max(ys) + room)
    low, high = axis.get_ylim()
    beside = offset_copy(axis.transData, axis.get_figure(root=True), x=8, units="points")
    for (x, _, method, label), height in zip(
        spots, _spread(ys, (high - low) * LABEL_GAP), strict=True
    ):
        _name(axis, x, height, method, label, transform=beside)
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axis.yaxis.set_major_locator(_ticks())
    axis.yaxis.set_major_formatter(FuncFormatter(_share))
    axis.set_xlabel("share of the known items in some list (log scale)", fontsize=9, color=SOFT)
    axis.set_ylabel(f"NDCG@{evaluation.k}", fontsize=9, color=SOFT)


def _spots(methods: Sequence[MethodResult]) -> list[tuple[float, float, MethodResult, str]]:
    """Coverage, NDCG, method and label; methods at the same place share one spot."""
    spots: dict[tuple[float, float], tuple[MethodResult, str]] = {}
    for method in methods:
        place = (max(method.coverage, 1e-6), method.metrics["ndcg"].mean)
        if place in spots:
            first, label = spots[place]
            spots[place] = (first, f"{label}, {method.label}")
        else:
            spots[place] = (method, method.label)
    return [(x, y, method, label) for (x, y), (method, label) in spots.items()]


def _segments_panel(axis: Axes, task: TaskResult, evaluation: Evaluation) -> None:
    places = np.arange(len(task.segments))
    for method in task.methods:
        axis.plot(
            places,
            [segment.ndcg[method.name] for segment in task.segments],
            "o-",
            color=_colour(method),
            linewidth=2.6 if method.is_system else 1.6,
            markersize=6 if method.is_system else 4,
            zorder=3 if method.is_system else 2,
        )
    last = [task.segments[-1].ndcg[method.name] for method in task.methods]
    highest = max(max(segment.ndcg.values()) for segment in task.segments) * 1.12
    lowest = min(min(segment.ndcg.values()) for segment in task.segments) * 0.8
    axis.set_ylim(lowest, highest or 1.0)
    heights = _spread(last, (highest - lowest) * LABEL_GAP)
    for method, height in zip(task.methods, heights, strict=True):
        _name(axis, places[-1] + 0.12, height, method, method.label)
    axis.set_xlim(-0.25, len(places) - 1 + 0.33 * max(len(places), 2))
    axis.set_xticks(places, [f"{segment.label}\n({segment.users:,})" for segment in task.segments])
    axis.yaxis.set_major_locator(_ticks())
    axis.yaxis.set_major_formatter(FuncFormatter(_share))
    axis.set_xlabel("shopping trips before the window (users)", fontsize=9, color=SOFT, loc="left")
    axis.set_ylabel(f"NDCG@{evaluation.k}", fontsize=9, color=SOFT)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved apart to at least ``gap``, their order kept, their centre about kept."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=float)[order]
    for _ in range(200):
        close = np.diff(placed) < gap * 0.999
        if not close.any():
            break
        for index in np.flatnonzero(close):
            push = (gap - (placed[index + 1] - placed[index])) / 2
            placed[index] -= push
            placed[index + 1] += push
    placed += max(0.0, gap / 2 - placed.min(initial=gap))
    spread = np.empty_like(placed)
    spread[order] = placed
    return [float(height) for height in spread]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "shoprec"})
