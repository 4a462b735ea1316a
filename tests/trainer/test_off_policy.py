"""Judging exploration by the logs of another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.contract.errors import BadInput, ConfigError
from ranking.exploration.choice import choose
from trainer.off_policy import OffPolicyConfig, choices_of, main, read_lines, rewards_of, run

RATES = np.array([0.1, 0.5, 0.3, 0.2])
ANSWERS = 3000


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the logs of lists whose places 2 and 3 are chosen at random."""
    folder, random = tmp_path_factory.mktemp("logs"), np.random.default_rng(0)
    (folder / "exposures").mkdir()
    shown, events = [], []
    for number in range(ANSWERS):
        made = choose(np.zeros((1, 4)), 1.0, 2, random)
        arms = [100, 101, 102, 103]
        chosen = made.arm_P.tolist()
        about = {
            "state": "default",
            "algorithm": "epsilon_greedy",
            "places": [2, 3],
            "arms": arms,
            "contexts": [[1.0, 0.0]] * 4,
            "expected": [0.2] * 4,
            "chosen": chosen,
        }
        line = {
            "recommendation_id": f"r{number}",
            "user_id": number % 500,
            "time": f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}",
            "item_ids": [99, *[arms[one] for one in chosen]],
            "propensities": [1.0, *made.propensity_P.tolist()],
            "exploration": about,
        }
        shown += [{"experiment": "e", **line}] * (1 + number % 2)  # of two layers: a line each
        for one in chosen:
            if random.random() < RATES[one]:
                events.append(
                    {
                        "event_id": f"{number} {one}",
                        "event_type": "click",
                        "item_id": arms[one],
                        "recommendation_id": f"r{number}",
                    }
                )
    write(folder / "exposures" / "shop-2026-01-01.jsonl", shown)
    write(folder / "shop.jsonl", [*events, {"event_id": "x", "event_type": "view", "item_id": 1}])
    return folder


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    path.write_text(text + '{"half": ', encoding="utf-8")


def settings(logs: Path, **more: Any) -> OffPolicyConfig:
    return OffPolicyConfig(str(logs / "exposures"), str(logs / "shop.jsonl"), **more)


def test_a_choice_is_one_explored_place_with_what_stands_above(logs: Path) -> None:
    rewards = rewards_of(logs / "shop.jsonl", {"click": 1.0})

    found = list(choices_of(read_lines(logs / "exposures"), "default", rewards))

    assert len(found) == 2 * ANSWERS
    first, second = found[:2]
    assert (list(first.above), first.place) == ([], 2)
    assert first.propensity == pytest.approx(1 / 4)
    assert (list(second.above), second.place) == ([first.arm], 3)
    assert second.propensity == pytest.approx(1 / 3)
    assert list(choices_of(read_lines(logs / "exposures"), "other", rewards)) == []


def test_policies_are_judged_by_what_they_would_have_earned(logs: Path) -> None:
    rows = {
        row["policy"]: row for row in run(settings(logs, policies=["random", "ranker", "greedy"]))
    }

    for kind in ("ips", "snips", "doubly_robust"):
        value, low, high = rows["random"][kind]
        assert value == pytest.approx(RATES.mean(), abs=0.02)
        # Of the arms that are left, the ranker takes the first: arm 0, and where it is above, 1.
        _, low, high = rows["ranker"][kind]
        assert low < 1 / 2 * RATES[0] + 1 / 2 * (3 / 4 * RATES[0] + 1 / 4 * RATES[1]) < high
        # The best by what was learned: arm 1, and where it is above, 2.
        _, low, high = rows["greedy"][kind]
        assert low < 1 / 2 * RATES[1] + 1 / 2 * (3 / 4 * RATES[1] + 1 / 4 * RATES[2]) < high
    assert rows["as logged"]["mean"] == pytest.approx(RATES.mean(), abs=0.02)
    assert rows["random"]["effective_size"] == pytest.approx(ANSWERS, rel=0.01)


def test_the_command_prints_a_line_a_policy(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"exposures={logs / 'exposures'}", f"feedback={logs / 'shop.jsonl'}"]

    assert main([*given, "policies=[lin_ucb]", "settings.prior=5", "clip=10"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["as", "lin_ucb"]
    assert "doubly_robust 0." in lines[1]


def test_what_does_not_hold_is_told(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="0 choices of the state 'other'"):
        run(settings(logs, state="other"))
    with pytest.raises(ConfigError, match="policies must be of"):
        settings(logs, policies=["best"])
    assert main(["exposures=there"]) == 1
    assert "Name the logs" in capsys.readouterr().err
    assert main(["speed=3"]) == 1
