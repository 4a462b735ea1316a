"""The plots of a study, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from trainer.evaluation.plots import DPI, GRID, INK, SOFT, SYSTEM, save_figure
from trainer.tuning.report import Result

PRUNED = "#98a1ad"


def draw_history(result: Result, path: Path) -> None:
    """The trials' values in the order of their beginnings, and the best one so far."""
    figure, axis = _figure(f"{result.metric} of the trials", _about(result), height=4.2)
    pruned = [trial for trial in result.measured if trial.state is TrialState.PRUNED]
    complete = [trial for trial in result.measured if trial.state is TrialState.COMPLETE]
    _dots(axis, pruned, PRUNED, "pruned")
    _dots(axis, complete, SYSTEM, "complete")
    better = max if result.study.direction.name == "MAXIMIZE" else min
    best = accumulate((trial.value or 0.0 for trial in complete), better)
    places = [trial.number for trial in complete]
    axis.step(places, list(best), where="post", color=SYSTEM, linewidth=1.4, label="best so far")
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_xlabel("trial", fontsize=9, color=SOFT)
    axis.legend(frameon=False, fontsize=9, labelcolor=SOFT, loc="lower right")
    save_figure(figure, path)


def draw_importances(importances: dict[str, float], result: Result, path: Path) -> None:
    """How much each setting decides, the most important on top."""
    names = list(importances)[::-1]
    height = 1.6 + 0.34 * len(names)
    figure, axis = _figure("What the result depends on", _about(result), height)
    shares = [importances[name] for name in names]
    axis.barh(range(len(names)), shares, height=0.55, color=SYSTEM)
    axis.set_yticks(range(len(names)), names)
    for label in axis.get_yticklabels():
        label.set_color(INK)
    for place, share in enumerate(shares):
        axis.annotate(
            f"{share:.2f}",
            (share, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axis.set_xlim(0, max(shares) * 1.12 or 1.0)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_xlabel("share of the importance (PED-ANOVA)", fontsize=9, color=SOFT)
    save_figure(figure, path)


def _about(result: Result) -> str:
    least, epochs = result.settings["search"]["min_epochs"], result.epochs
    cutoff = str(result.settings["run"]["cutoff"])[:10]
    return (
        f"{result.settings['experiment']}, window from {cutoff}: {len(result.measured)} trials of "
        f"{least} to {epochs} epochs"
    )


def _figure(heading: str, about: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.tick_params(length=0, labelsize=9, labelcolor=SOFT)
    axis.set_axisbelow(True)
    figure.suptitle(heading, x=0.012, ha="left", fontsize=13, weight="bold", color=INK)
    axis.set_title(about, loc="left", fontsize=9, color=SOFT)
    return figure, axis


def _dots(axis: Axes, trials: Sequence[FrozenTrial], colour: str, label: str) -> None:
    places = [trial.number for trial in trials]
    values = [trial.value or 0.0 for trial in trials]
    axis.plot(places, values, "o", color=colour, markersize=6, label=label)
