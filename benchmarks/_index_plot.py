"""Recall against queries a second, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from feature_repo.contract.artifacts import atomic_path

COLOURS = {
    "shoprec": "#0b57d0",
    "shoprec hnsw": "#7fa8e8",
    "scann": "#d9660a",
    "hnswlib": "#178a5b",
    "usearch": "#7c4dbd",
    "voyager": "#b83280",
}
TITLES = {"users": "vectors of users", "noisy": "out of distribution: users and noise"}
DPI = 150


def save_plot(path: Path, found: dict[str, dict[str, Any]], modes: Sequence[str]) -> None:
    """Draw one panel a kind of queries and mode: each engine's best settings, joined."""
    figure = Figure(figsize=(11, 8), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(TITLES), len(modes), squeeze=False)
    for line, kind in zip(panels, TITLES, strict=True):
        for panel, mode in zip(line, modes, strict=True):
            _draw(panel, found, kind, mode)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "shoprec"})


def _draw(panel: Axes, found: dict[str, dict[str, Any]], kind: str, mode: str) -> None:
    cores = 2 if mode.endswith("2 threads") else 1
    for name, result in found.items():
        rows = [row for row in result["rows"] if row["queries"] == kind and mode in row]
        points = frontier([(row["recall"], cores * 1e6 / row[mode]["cpu_us"]) for row in rows])
        if points:
            panel.plot(*zip(*points, strict=True), "o-", ms=3, color=COLOURS[name], label=name)
    panel.set_yscale("log")
    panel.set_xlim(0.85, 1.0)
    panel.set_title(f"{TITLES[kind]}\n{mode}", fontsize=10)
    panel.set_xlabel("recall@100")
    panel.set_ylabel("queries a second (processor time)")
    panel.grid(visible=True, which="both", color="#e4e7ec", linewidth=0.6)
    for target in (0.90, 0.95, 0.99):
        panel.axvline(target, color="#98a1ad", linewidth=0.6, linestyle="--")


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other is at least as good in both; by rising recall."""
    kept: list[tuple[float, float]] = []
    for recall, rate in sorted(points, reverse=True):
        if not kept or rate > kept[-1][1]:
            kept.append((recall, rate))
    return kept[::-1]
