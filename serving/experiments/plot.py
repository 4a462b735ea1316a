"""A report as a plot: how each variant differs from the control, with intervals."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from feature_repo.contract.artifacts import atomic_path
from serving.experiments.report import Report, Result

COLOURS = ("#0b57d0", "#d9660a", "#178a5b", "#7c4dbd", "#b83280", "#5b6470")
INK, SOFT, GRID = "#1f2430", "#5b6470", "#e4e7ec"
DPI = 160


def save_plot(report: Report, path: Path) -> None:
    """Draw the relative differences of all metrics and guardrails as a PNG."""
    results = [*report.results, *report.guards]
    others = len(report.variants) - 1
    height = 1.5 + len(results) * (0.2 + 0.11 * others)
    figure = Figure(figsize=(8.4, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, result in enumerate(results):
        _draw(axis, result, place, others)
    _style(axis, [result.metric.title for result in results])
    _legend(axis, report)
    title = f"{report.experiment.name}: difference from {report.variants[0]}"
    axis.set_title(title, loc="left", fontsize=12, weight="bold", color=INK, pad=22)
    axis.text(0, 1.015, _about(report), transform=axis.transAxes, fontsize=8, color=SOFT)
    figure.tight_layout()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "shoprec"})


def _draw(axis: Axes, result: Result, place: int, others: int) -> None:
    """One metric: a line a variant; the plain interval is thin where there is CUPED."""
    for other, (best, plain) in enumerate(
        zip(result.best.differences, result.plain.differences, strict=True)
    ):
        y = place + (other - (others - 1) / 2) * (0.6 / max(others, 1))
        colour = COLOURS[other % len(COLOURS)]
        if plain.relative_low is not None and plain.relative_high is not None:
            axis.plot([plain.relative_low, plain.relative_high], [y, y], lw=0.8, color=colour)
        if best.relative_low is not None and best.relative_high is not None:
            axis.plot([best.relative_low, best.relative_high], [y, y], lw=2.6, color=colour)
        if best.relative is not None:
            axis.plot(best.relative, y, "o", ms=4.5, color=colour)


def _style(axis: Axes, titles: list[str]) -> None:
    axis.axvline(0, color=SOFT, lw=0.9)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    name_rows(axis, titles)


def name_rows(axis: Axes, names: list[str]) -> None:
    """One row of an axis for each name, from the top, with nothing around but a grid."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="x", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


def _legend(axis: Axes, report: Report) -> None:
    for other, name in enumerate(report.variants[1:]):
        users = report.users[other + 1]
        label = f"{name}, {users:,} users"
        axis.plot([], [], "o-", ms=4.5, lw=2.6, color=COLOURS[other % len(COLOURS)], label=label)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _about(report: Report) -> str:
    days = f"{report.window.start:%Y-%m-%d} to {report.window.until:%Y-%m-%d}"
    lines = "95% intervals; thin: without CUPED" if _has_cuped(report) else "95% intervals"
    alarm = "; ALARM: sample ratio mismatch" if report.alarm else ""
    return f"{days}, {report.users[0]:,} users in the control, {lines}{alarm}"


def _has_cuped(report: Report) -> bool:
    return any(result.cuped is not None for result in report.results)
