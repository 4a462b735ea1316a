from __future__ import annotations

import pytest

from ranking.metrics import Estimate
from trainer.evaluation.markdown import decimal, interval, percent, report, summary, tables
from trainer.evaluation.result import METRICS, Evaluation, MethodResult, Segment, TaskResult


def method(name: str, ndcg: float, *, is_system: bool = False) -> MethodResult:
    metrics = {metric: Estimate(ndcg, ndcg - 0.01, ndcg + 0.01) for metric in METRICS}
    return MethodResult(name, name.upper(), is_system, metrics, coverage=0.117)


def evaluation(*, with_system: bool = True) -> Evaluation:
    methods = [method("popular", 0.2), method("ease", 0.3)]
    difference = {}
    if with_system:
        methods.insert(0, method("shoprec", 0.4121, is_system=True))
        difference = {metric: Estimate(0.1121, -0.05, 0.25) for metric in METRICS}
    segments = [Segment("1\u201320", 1_500, {m.name: 0.25 for m in methods})]
    task = TaskResult(2_035, 12, methods, "ease", difference, segments)
    return Evaluation(
        dataset="complete_journey",
        split="validation",
        cutoff="2017-10-30T04:00:00+00:00",
        until="2017-11-27T05:00:00+00:00",
        k=10,
        samples=1000,
        command="python -m trainer.evaluate out=x",
        inputs={},
        tasks={"all": task, "new": task},
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.4124, ".412"), (-0.0124, "-.012"), (1.0, "1.000"), (0.0, ".000")]
)
def test_decimals_have_no_leading_zero(value: float, text: str) -> None:
    assert decimal(value) == text


def test_intervals_and_percentages() -> None:
    assert interval(Estimate(0.4, 0.39, 0.41)) == "[.390, .410]"
    assert (percent(0.117), percent(0.0002), percent(1.0)) == ("11.7%", "0.02%", "100.0%")


def test_each_task_has_a_table_with_a_row_a_method() -> None:
    lines = tables(evaluation()).splitlines()

    assert lines[0].startswith(
        "| **All items** (2,035 users) | NDCG@10 | P@10 | R@10 | MRR@10 | hit@10 |"
    )
    assert lines[2].startswith("| **SHOPREC** | **.412** [.402, .422] | **.412** |")
    assert lines[3].startswith("| POPULAR | .200 [.190, .210] | .200 |")
    assert lines[3].endswith("| 0.20 | 0.20 | 11.7% |")
    assert sum(line.startswith("| **Items new") for line in lines) == 1


def test_every_row_has_as_many_cells_as_its_heading() -> None:
    counts = [line.count("|") for line in tables(evaluation()).splitlines() if line[:1] == "|"]

    assert len(set(counts)) == 1


def test_the_system_is_compared_with_the_best_baseline() -> None:
    assert "SHOPREC minus EASE: NDCG@10 +.112 [-.050, +.250]" in tables(evaluation())
    assert "12 users have no list." in tables(evaluation())


def test_without_a_system_nothing_is_compared() -> None:
    assert "minus" not in tables(evaluation(with_system=False))


def test_a_metric_that_a_method_lacks_is_an_empty_cell() -> None:
    found = evaluation()
    del found.tasks["all"].methods[1].metrics["novelty"]

    assert "|  | 0.20 | 11.7% |" in tables(found)


def test_the_summary_says_what_was_measured_and_how() -> None:
    text = summary(evaluation())

    assert "complete_journey, validation: top 10 for 2017-10-30 to 2017-11-27" in text
    assert text.endswith("Made by `python -m trainer.evaluate out=x`.")


def test_the_report_has_segments() -> None:
    assert "(users) | 1\u201320 (1,500) |" in report(evaluation())
    assert report(evaluation()).endswith("`.\n")
