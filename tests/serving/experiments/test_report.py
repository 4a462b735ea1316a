from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.experiments.__main__ import main
from serving.experiments.exposure import append
from serving.experiments.outcomes import COLUMNS, Outcomes, Window
from serving.experiments.report import Guard, Report, make_report, verdict
from serving.experiments.text import as_text
from tests.serving.experiments.files import END, NOW, START, event, experiment, exposure, write


def outcomes(num_users: int = 400, **columns: Any) -> Outcomes:
    """Return users of two variants by turns, who did nothing but what is given."""
    found: dict[str, Any] = {name: np.zeros(num_users) for name in COLUMNS}
    found["answers"] = found["shown"] = np.ones(num_users)
    found["took_ms"] = 10.0 + np.arange(num_users) % 7
    found |= columns
    variant = np.arange(num_users) % 2
    took = [found["took_ms"][variant == place] for place in range(2)]
    return Outcomes(list(range(num_users)), variant, found, took)


def report(found: Outcomes, **changes: Any) -> Report:
    return make_report(experiment(**changes), Window(START, END), found, END)


def test_each_metric_is_told_with_its_difference() -> None:
    random = np.random.default_rng(1)
    bought = (random.random(400) < np.where(np.arange(400) % 2, 0.6, 0.3)).astype(float)

    found = report(outcomes(converted=bought))

    conversion = found.results[0]
    assert conversion.metric.name == "conversion"
    control, other = (bought[place::2].mean() for place in range(2))
    assert conversion.plain.estimates[0].value == pytest.approx(control)
    assert conversion.plain.differences[0].value == pytest.approx(other - control)
    assert conversion.discoveries[0] is not None
    assert conversion.discoveries[0] < 0.001
    assert conversion.cuped is None
    assert "no CUPED" in found.notes[0]
    assert found.users == (200, 200)
    assert not found.alarm


def test_cuped_is_told_where_spend_of_the_time_before_is_known() -> None:
    random = np.random.default_rng(2)
    before = random.exponential(10, 400)
    found = report(outcomes(before=before, revenue=before + random.normal(size=400)))

    revenue = next(one for one in found.results if one.metric.name == "revenue_per_user")
    assert revenue.cuped is not None
    assert revenue.best is revenue.cuped
    assert revenue.cuped.explained == pytest.approx(0.99, abs=0.01)
    assert found.notes == []


def test_another_split_than_the_weights_raises_an_alarm() -> None:
    found = report(outcomes(), variants={"control": {"weight": 3}, "other": None})

    assert found.alarm
    assert "ALARM: sample ratio mismatch" in as_text(found)


def test_a_slower_variant_breaches_its_guardrail() -> None:
    slow = 10 + np.arange(400) % 7 + 5.0 * (np.arange(400) % 2)

    found = report(outcomes(took_ms=slow))

    assert found.verdicts == {"latency_ms": (Guard.BREACHED,), "degraded_share": (Guard.OK,)}
    assert "breached" in as_text(found)


def test_a_variant_that_always_does_without_a_stage_breaches_its_guardrail() -> None:
    found = report(outcomes(degraded=(np.arange(400) % 2).astype(float)))

    assert found.verdicts["degraded_share"] == (Guard.BREACHED,)


@pytest.mark.parametrize(
    ("interval", "want"),
    [
        ((0.0, -0.05, 0.05), Guard.OK),
        ((0.05, -0.05, 0.15), Guard.UNCLEAR),
        ((0.2, 0.1, 0.3), Guard.BREACHED),
        ((0.08, 0.01, 0.15), Guard.UNCLEAR),
        ((None, None, None), Guard.UNCLEAR),
    ],
)
def test_a_guardrail_is_judged_by_its_interval(
    interval: tuple[float | None, float | None, float | None], want: Guard
) -> None:
    assert verdict(*interval, 0.1) is want


def test_a_report_before_the_end_says_so() -> None:
    found = make_report(experiment(), Window(START, NOW), outcomes(), NOW)

    assert "The experiment runs until 2026-04-01T00:00:00+00:00." in found.notes[0]


def logs(folder: Path) -> Path:
    """Write logs of sixty users, of whom those of `other` buy twice as often."""
    lines = [exposure(user, ("control", "other")[user % 2], 1 + user / 60) for user in range(60)]
    lines += [exposure(99, "other", 1, override=True)]
    (folder / "exposures").mkdir(parents=True)
    append(folder / "exposures" / "shop-2026-03-02.jsonl", lines)
    buyers = [user for user in range(60) if user % 4 == 0 or user % 2 == 1]
    events = [event(user, "purchase", 5, price=1.0 + user % 5) for user in buyers]
    events += [event(user, "purchase", -5, price=1.0 + user % 3) for user in range(60)]
    append(folder / "shop.jsonl", events)
    return folder


def test_the_command_prints_and_writes_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "conf")
    folder, out = logs(tmp_path / "feedback"), tmp_path / "out"
    arguments = ["--experiments", str(tmp_path / "conf"), "--feedback", str(folder)]
    until = (START + timedelta(days=30)).isoformat()

    assert main(["report", "lists", *arguments, "--until", until, "--out", str(out)]) == 0

    said = json.loads((out / "report.json").read_text())
    assert said["users"] == [30, 30]
    conversion = said["metrics"]["conversion"]
    assert conversion["plain"]["estimates"][0]["value"] == pytest.approx(15 / 30)
    assert conversion["plain"]["estimates"][1]["value"] == pytest.approx(30 / 30)
    assert conversion["cuped"] is not None
    assert said["guardrails"]["latency_ms"]["plain"]["estimates"][0]["value"] == 10.0
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert text == (out / "report.md").read_text()
    assert "| users who bought " in text
    assert "Sample ratio: as the weights say" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["report", "nothing"], "There is no experiment 'nothing' in"),
        (["report", "lists", "--project", "other"], "has no log of exposures of other"),
        (["report", "lists"], "has logs of several shops, ['mall', 'shop']; say which"),
        (["check"], "variants.control.wieght"),
    ],
)
def test_what_cannot_be_told_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    write(tmp_path / "conf")
    if arguments == ["check"]:
        write(tmp_path / "conf", variants={"control": {"wieght": 1}, "other": None})
    folder = logs(tmp_path / "feedback")
    append(folder / "exposures" / "mall-2026-03-02.jsonl", [exposure(1, "control")])
    feedback = [] if arguments == ["check"] else ["--feedback", str(folder)]

    assert main([*arguments, "--experiments", str(tmp_path / "conf"), *feedback]) == 2

    assert text in capsys.readouterr().err


def test_files_are_checked_as_a_server_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)

    assert main(["check", "--experiments", str(tmp_path)]) == 0
    assert "All 1 files" in capsys.readouterr().out
