"""An evaluation as Markdown tables."""

from __future__ import annotations

from feature_repo.contract.dataset import parse_time
from ranking.item_groups import NEW_DAYS, TAIL
from ranking.metrics import Estimate
from trainer.evaluation.result import METRICS, Evaluation, MethodResult, TaskResult, in_order

TITLES = {"all": "All items", "new": "Items new to the user"}
SHARES = ("ndcg", "precision", "recall", "mrr", "hit_rate", "serendipity")
"""Metrics between 0 and 1 of which more is better."""


def report(evaluation: Evaluation) -> str:
    """The whole page: tables of both tasks, segments, and how to read them."""
    parts = [f"# {_headline(evaluation)}", tables(evaluation)]
    parts += [_segments(name, evaluation) for name in evaluation.tasks]
    parts += [_groups(name, task) for name, task in evaluation.tasks.items() if task.groups]
    return "\n\n".join([*parts, _legend(evaluation)]) + "\n"


def tables(evaluation: Evaluation) -> str:
    """One table a task, each with the system's difference to the best baseline."""
    return "\n\n".join(_task(name, task, evaluation.k) for name, task in evaluation.tasks.items())


def summary(evaluation: Evaluation) -> str:
    """The tables with what they were measured on and the command that made them."""
    return f"{_headline(evaluation)}.\n\n{tables(evaluation)}\n\n{_legend(evaluation)}"


def _headline(evaluation: Evaluation) -> str:
    first, end = (parse_time(text) for text in (evaluation.cutoff, evaluation.until))
    return (
        f"{evaluation.dataset}, {evaluation.split}: top {evaluation.k} for "
        f"{first:%Y-%m-%d} to {end:%Y-%m-%d}, from what was known before"
    )


def _task(name: str, task: TaskResult, k: int) -> str:
    metrics = in_order({metric for method in task.methods for metric in method.metrics})
    titles = [_title(metric, k) for metric in metrics]
    heading = f"**{TITLES.get(name, name)}** ({task.users:,} users)"
    lines = [
        f"| {heading} | {' | '.join([*titles, 'coverage'])} |",
        f"|---|{'---:|' * (len(titles) + 1)}",
        *(_row(method, metrics, _best(task)) for method in task.methods),
    ]
    table = "\n".join(lines)
    return f"{table}\n\n{_difference(task, k)}" if task.difference else table


def _title(metric: str, k: int) -> str:
    return METRICS[metric].format(k=k)


def _best(task: TaskResult) -> dict[str, float]:
    """The highest mean of each metric of accuracy, as it is shown."""
    return {
        metric: max(m.metrics[metric].mean for m in task.methods if metric in m.metrics)
        for metric in SHARES
    }


def _row(method: MethodResult, metrics: list[str], best: dict[str, float]) -> str:
    cells = [_cell(method, metric, best) for metric in metrics]
    label = f"**{method.label}**" if method.is_system else method.label
    return f"| {label} | {' | '.join([*cells, percent(method.coverage)])} |"


def _cell(method: MethodResult, metric: str, best: dict[str, float]) -> str:
    estimate = method.metrics.get(metric)
    if estimate is None:
        return ""
    if metric not in SHARES:
        return f"{estimate.mean:.2f}"
    text = decimal(estimate.mean)
    if text == decimal(best[metric]):
        text = f"**{text}**"
    return f"{text} {interval(estimate)}" if metric == "ndcg" else text


def decimal(value: float) -> str:
    """Three decimals without the leading zero: ``.412``, ``-.012``, ``1.000``."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def percent(value: float) -> str:
    """``11.7%``; two decimals below one per cent."""
    return f"{100 * value:.1f}%" if value >= 0.01 else f"{100 * value:.2f}%"


def interval(estimate: Estimate) -> str:
    """``[.401, .423]``."""
    return f"[{decimal(estimate.low)}, {decimal(estimate.high)}]"


def _difference(task: TaskResult, k: int) -> str:
    system = task.system
    assert system is not None, "A difference is a system's."
    parts = [
        f"{_title(metric, k)} {_signed(task.difference[metric].mean)} "
        f"[{_signed(task.difference[metric].low)}, {_signed(task.difference[metric].high)}]"
        for metric in ("ndcg", "precision", "recall")
    ]
    rival = task.method(task.best_baseline).label
    missing = f" {task.without_list:,} users have no list." if task.without_list else ""
    return f"{system.label} minus {rival}: {', '.join(parts)}.{missing}"


def _signed(value: float) -> str:
    return decimal(value) if value < 0 else f"+{decimal(value)}"


def _segments(name: str, evaluation: Evaluation) -> str:
    task = evaluation.tasks[name]
    spans = [f"{segment.label} ({segment.users:,})" for segment in task.segments]
    lines = [
        f"| NDCG@{evaluation.k} by shopping trips before (users) | {' | '.join(spans)} |",
        f"|---|{'---:|' * len(spans)}",
    ]
    for method in task.methods:
        cells = [decimal(segment.ndcg[method.name]) for segment in task.segments]
        lines.append(f"| {method.label} | {' | '.join(cells)} |")
    title = TITLES.get(name, name)
    return f"## {title}: by activity\n\n" + "\n".join(lines)


def _groups(name: str, task: TaskResult) -> str:
    lines = [
        f"| share of the places | {' | '.join(group.label for group in task.groups)} |",
        f"|---|{'---:|' * len(task.groups)}",
        f"| of the known items | {' | '.join(percent(group.items) for group in task.groups)} |",
        f"| of what users wanted | {' | '.join(percent(group.wanted) for group in task.groups)} |",
    ]
    for method in task.methods:
        cells = [percent(group.places[method.name]) for group in task.groups]
        lines.append(f"| {method.label} | {' | '.join(cells)} |")
    title = TITLES.get(name, name)
    about = (
        f"New: first bought within {NEW_DAYS:g} days before the window. Long tail and small "
        f"brands: the least bought, which together have at most {TAIL:.0%} of the buyers. A "
        "minimum is set by `policy.exposure`; `python -m benchmarks.policy` tells its price."
    )
    return f"## {title}: exposure\n\n" + "\n".join(lines) + f"\n\n{about}"


def _legend(evaluation: Evaluation) -> str:
    return (
        "P: precision, R: recall, hit: share of the users with a relevant item in their list. "
        "Relevant are the distinct items bought in the window that were known before it (new: less "
        "those the user had bought); means are over the users with at least one, a user without a "
        "list counts zero. In brackets: 95% bootstrap intervals over users "
        f"({evaluation.samples:,} samples). Serendipity: share of the places that are relevant and "
        "neither recently popular nor often bought by the user. Novelty: bits, minus log2 of the "
        "share of users who bought the item. Diversity: share of attributes in which two items of "
        "a list differ. Coverage: share of the known items that stand in some list.\n\n"
        f"Made by `{evaluation.command}`."
    )
