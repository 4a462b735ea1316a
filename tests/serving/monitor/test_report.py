from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_repo.contract.snapshot import Spread
from serving.monitor.__main__ import main
from serving.monitor.config import MonitorConfig
from serving.monitor.drift import drifts
from serving.monitor.facts import ReleaseFacts
from serving.monitor.report import Report, look
from serving.monitor.text import as_text
from tests.serving.monitor.files import NOW, Shop, user_rows


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path).export()


def looked(shop: Shop) -> Report:
    facts = ReleaseFacts.read(shop.release, NOW.timestamp())
    return look(facts, shop.feedback, MonitorConfig(history_days=35), NOW)


def test_where_all_is_as_before_no_alarm_is_up(shop: Shop) -> None:
    shop.serve_rows(user_rows(1, 2000))
    shop.show()

    found = looked(shop)

    assert found.alarms == []
    assert found.answers == (400, 2000)
    assert [one.name for one in found.features] != []
    names = {one.name for one in found.outcomes}
    assert {"click_through", "precision", "novelty", "coverage", "calibration"} <= names
    assert {"exposure: new items", "exposure: long tail", "exposure: small brands"} <= names
    assert {"click_through: known users", "click_through: new users"} <= names
    assert "No alarm." in as_text(found)


def test_a_shifted_feature_is_found_and_named(shop: Shop) -> None:
    shop.serve_rows(user_rows(1, 2000, shift=0.5))

    (alarm,) = looked(shop).alarms

    assert (alarm.kind, alarm.name) == ("feature", "spend")
    assert alarm.sentence.startswith("spend has drifted: its values are 0.")


def test_a_fall_of_clicks_is_found_and_so_is_what_follows_from_it(shop: Shop) -> None:
    shop.show(fall=0.4)

    alarms = {alarm.name: alarm.sentence for alarm in looked(shop).alarms}

    assert {"click_through", "calibration"} <= set(alarms)
    assert "click_through fell by" in alarms["click_through"]
    assert not any(name.startswith("exposure") for name in alarms)


def test_without_logs_it_says_how_to_get_them(shop: Shop) -> None:
    found = looked(shop)

    assert not found.alarms
    assert any("SHOPREC_LOG_ROWS=0.01" in note for note in found.notes)
    assert any("SHOPREC_LOG_EXPOSURES=1" in note for note in found.notes)


def test_a_release_without_a_snapshot_is_compared_with_what_was_served_before(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path).export(snapshot=False)
    shop.serve_rows(user_rows(1, 2000, shift=0.5))
    assert any("no training snapshot" in note for note in looked(shop).notes)

    shop.serve_rows(user_rows(2, 2000), at=NOW.replace(day=10))
    found = looked(shop)

    assert [alarm.name for alarm in found.alarms] == ["spend"]
    assert any("users that were served before" in note for note in found.notes)


def test_rows_of_other_features_are_passed_over(shop: Shop) -> None:
    shop.serve_rows(user_rows(1, 2000))
    stranger = next((shop.feedback / "served").iterdir())
    stranger.with_name(stranger.name.replace("-1-", "-2-")).write_bytes(b"no parquet")

    found = looked(shop)

    assert found.features
    assert any(note.startswith("1 files of served rows") for note in found.notes)


def test_the_command_reports_calls_the_hook_once_and_exits_with_1(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.serve_rows(user_rows(1, 2000, shift=0.5))
    out, calls = tmp_path / "out", tmp_path / "calls"
    hook = f"(cat; echo) >> {calls}"
    command = ["--release", str(shop.release), "--feedback", str(shop.feedback), "--out", str(out)]
    command += ["--until", NOW.isoformat(), "--hook", hook]

    assert [main(command), main(command)] == [1, 1]

    (call,) = calls.read_text().splitlines()
    assert json.loads(call)["alarms"][0]["name"] == "spend"
    assert "ALARM: spend has drifted" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.png"}
    assert json.loads((out / "report.json").read_text())["alarm"] is True


def test_the_command_exits_with_0_where_nothing_is_wrong_and_2_where_it_cannot_look(
    shop: Shop, tmp_path: Path
) -> None:
    shop.serve_rows(user_rows(1, 2000))
    command = ["--feedback", str(shop.feedback), "--until", NOW.isoformat()]

    assert main([*command, "--release", str(shop.release)]) == 0
    assert (shop.feedback / "monitor" / "shop" / "report.md").exists()
    assert main([*command, "--release", str(tmp_path / "none")]) == 2
    assert main([*command, "--release", str(shop.release), "--level", "2"]) == 2


def test_what_a_feature_does_by_itself_raises_no_alarm() -> None:
    random = np.random.default_rng(0)
    spread = Spread.of_numbers("age", random.normal(size=2000))
    served = {"age": spread.count_numbers(random.normal(size=2000) + 0.3)}
    usual = replace(spread, usual=0.2)

    ((alone,), (young,), (old,)) = (
        drifts([spread], served, MonitorConfig()),
        drifts([usual], served, MonitorConfig()),
        drifts([replace(usual, usual=0.08)], served, MonitorConfig(), age_days=63.0),
    )

    assert alone.alarms == ("values", "index")
    assert young.alarms == ()
    assert old.usual == pytest.approx(0.08 * 70 / 28)
    assert old.alarms == ()
