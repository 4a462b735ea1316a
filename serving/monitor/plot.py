"""A report as a plot: how far each feature has drifted, and how each metric has changed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from serving.experiments.plot import DPI, INK, SOFT, name_rows, save_figure
from serving.monitor.report import Report

GOOD, BAD = "#0b57d0", "#d9660a"


def save_plot(report: Report, path: Path) -> None:
    """Draw stability indexes with their limits, and relative changes with intervals, as a PNG."""
    drifts = [*report.features, *report.predictions]
    changes = [one for one in report.outcomes if one.change.relative is not None]
    height = 1.6 + 0.2 * max(len(drifts), len(changes), 4)
    figure = Figure(figsize=(11.5, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for place, one in enumerate(drifts):
        left.barh(place, one.index, height=0.55, color=BAD if one.alarm else GOOD)
        left.plot([one.index_limit] * 2, [place - 0.4, place + 0.4], lw=1.2, color=SOFT)
    for place, other in enumerate(changes):
        relative, reach = other.change.relative or 0.0, 1.96 * (other.change.error or 0.0)
        colour = BAD if other.alarm else GOOD
        right.plot([relative - reach, relative + reach], [place, place], lw=2.2, color=colour)
        right.plot(relative, place, "o", ms=4.5, color=colour)
    right.axvline(0, color=SOFT, lw=0.9)
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    _style(left, [one.name for one in drifts], "Stability index; bars: its limit")
    _style(right, [one.name for one in changes], "Change of online quality, 95% intervals")
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11, weight="bold", color=INK)
    figure.tight_layout()
    save_figure(figure, path)


def _title(report: Report) -> str:
    number = len(report.alarms)
    state = "no alarm" if not number else f"{number} alarm{'s' * (number > 1)}"
    days = f"{report.windows.start:%Y-%m-%d} to {report.windows.end:%Y-%m-%d}"
    return f"{report.project}, {days}: {state}"


def _style(axis: Axes, names: list[str], title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, color=SOFT)
    name_rows(axis, names)
