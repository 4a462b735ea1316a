from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving.experiments.exposure import ExposureLog
from serving.experiments.running import EXPOSURES, Experiments
from serving.metrics import Metrics
from serving.monitor import timer
from serving.monitor.gauges import MonitorGauges
from serving.monitor.running import Monitoring
from serving.monitor.timer import MonitorTimer
from serving.recommender import Recommender
from serving.release import Release
from serving.settings import Settings
from tests.serving.http import client_of, server_of
from tests.serving.monitor.files import PROJECT, Shop, user_rows

ALARM = {"kind": "feature", "name": "spend", "sentence": "spend has drifted."}
REPORT = {
    "alarms": [ALARM],
    "features": [{"name": "spend", "index": 0.3}],
    "predictions": [],
    "outcomes": [{"name": "click_through", "change": {"now": 0.1, "before": None}}],
}


def shown(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_gauges_go_up_with_an_alarm_and_down_when_it_is_over() -> None:
    gauges = MonitorGauges(registry := CollectorRegistry())

    gauges.show(REPORT, 17.0)
    up = shown(registry)
    gauges.show({**REPORT, "alarms": []}, 18.0)

    assert 'shoprec_alarm{kind="feature",name="spend"} 1.0' in up
    assert 'shoprec_drift_index{kind="feature",name="spend"} 0.3' in up
    assert 'shoprec_online_quality{metric="click_through",time="now"} 0.1' in up
    assert 'time="before"' not in up
    assert 'shoprec_alarm{kind="feature",name="spend"} 0.0' in shown(registry)


def settings_of(shop: Shop, **changes: object) -> Settings:
    given = {"release": shop.release, "feedback": shop.feedback, "project": PROJECT, **changes}
    return Settings(**given)  # type: ignore[arg-type]


@pytest.mark.slow
def test_one_of_two_workers_looks_shows_what_it_found_and_calls_the_hook(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "NICE", 0)  # the machine may have much else to do
    shop, now = Shop(tmp_path).export(), datetime.now(UTC)
    shop.serve_rows(user_rows(1, 2000, shift=0.5), at=now - timedelta(days=1))
    hook = f"cat >> {tmp_path / 'calls'}"
    settings = settings_of(shop, monitor_s=60.0, retrain_hook=hook)
    registries = [CollectorRegistry(), CollectorRegistry()]
    timers = [MonitorTimer(settings, MonitorGauges(registry)) for registry in registries]
    for one in timers:
        one.start()
    up = 'shoprec_alarm{kind="feature",name="spend"} 1.0'
    until = time.monotonic() + 120
    while not any(up in shown(own) for own in registries) and time.monotonic() < until:
        time.sleep(0.1)
    for one in timers:
        one.end()

    assert sorted(up in shown(own) for own in registries) == [False, True]
    assert json.loads((tmp_path / "calls").read_text())["alarms"][0]["name"] == "spend"
    assert "ALARM: spend has drifted" in caplog.text
    assert "A new training was asked for" in caplog.text


@pytest.mark.slow
def test_a_look_that_fails_is_told_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "NICE", 0)
    gauges = MonitorGauges(registry := CollectorRegistry())
    MonitorTimer(settings_of(Shop(tmp_path), monitor_s=60.0), gauges).look()

    assert 'shoprec_monitor_looks_total{outcome="failed"} 1.0' in shown(registry)
    assert "The monitor could not look: There is no release" in caplog.text


def test_without_a_time_no_thread_looks(tmp_path: Path) -> None:
    gauges = MonitorGauges(CollectorRegistry())

    MonitorTimer(settings_of(Shop(tmp_path)), gauges).start()

    assert not (tmp_path / "feedback").exists()


@pytest.mark.anyio
async def test_a_server_logs_what_the_monitor_reads(
    release: Release, recommender: Recommender, tmp_path: Path
) -> None:
    about = release.about
    settings = Settings(
        feedback=tmp_path,
        project=about.project,
        log_rows=1.0,
        log_exposures=1.0,
        experiments=tmp_path,
    )
    metrics = Metrics()
    monitoring = Monitoring.of(settings, metrics)
    online = monitoring.store(recommender._users._online, release.schema, about.user_id)
    server = server_of(Recommender(release, online), tmp_path)
    log = ExposureLog(tmp_path / EXPOSURES, about.project)
    server.metrics, server.monitoring = metrics, monitoring
    server.experiments = Experiments(None, log, share=settings.log_exposures)
    async with client_of(server) as shop:
        answer = (await shop.post("/recommend/", json={"user_id": 1007, "n": 3})).json()
        monitoring.rows.flush()
        text = (await shop.get("/metrics")).text
    log.flush()

    (path,) = (tmp_path / EXPOSURES).iterdir()
    line = json.loads(path.read_text())
    assert line["recommendation_id"] == answer["recommendation_id"]
    assert line["scores"] == [item["score"] for item in answer["items"]]
    assert "experiment" not in line
    assert answer["experiment"] is None
    assert 'shoprec_served_rows_total{outcome="logged"} 1.0' in text
    assert len(list((tmp_path / "served").glob("*.parquet"))) == 1
