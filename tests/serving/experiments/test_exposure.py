from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from serving.answers import Item, Recommendation
from serving.experiments import exposure
from serving.experiments.exposure import Exposure, ExposureLog
from serving.experiments.treatment import Arm, Treatment
from serving.feedback import write_all
from tests.serving.experiments.files import NOW, experiment

PLAIN = experiment().variants["other"]


class Counts:
    """What the log counted."""

    def __init__(self) -> None:
        self.logged = self.lost = 0

    def __call__(self, logged: int, lost: int) -> None:
        self.logged += logged
        self.lost += lost


def shown(name: str, *layers: str, **changes: Any) -> Exposure:
    items = [Item(501, 0.5, 1, "ann"), Item(502, 0.4, 2, "ann")]
    answer = Recommendation(name, items, "lists:other", "1", "1+0", ["features"], 12.5)
    arms = tuple(Arm(layer, "other", "0a", PLAIN) for layer in layers or ("lists",))
    return Exposure(1007, Treatment(arms, **changes), answer, NOW)


def lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_line_says_who_was_shown_what_and_by_which_variant(tmp_path: Path) -> None:
    log, count = ExposureLog(tmp_path, "shop", counts := Counts()), counts
    log.add(shown("r1"))
    log.close()

    assert [path.name for path in tmp_path.iterdir()] == ["shop-2026-03-10.jsonl"]
    assert lines(tmp_path) == [
        {
            "experiment": "lists",
            "variant": "other",
            "revision": "0a",
            "recommendation_id": "r1",
            "user_id": 1007,
            "time": "2026-03-10T12:00:00.000+00:00",
            "item_ids": [501, 502],
            "positions": [1, 2],
            "scores": [0.5, 0.4],
            "took_ms": 12.5,
            "degraded": ["features"],
            "cached": False,
            "model_version": "1",
            "override": False,
        }
    ]
    assert (count.logged, count.lost) == (1, 0)


def test_an_answer_of_two_layers_has_two_lines(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path, "shop")
    log.add(shown("r1", "lists", "texts", override=True))
    log.close()

    assert [(line["experiment"], line["override"]) for line in lines(tmp_path)] == [
        ("lists", True),
        ("texts", True),
    ]


def test_what_waits_is_written_soon_without_being_asked(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path, "shop")
    log.add(shown("r1"))
    until = time.monotonic() + 10 * exposure.EVERY_S

    while not lines(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)

    assert len(lines(tmp_path)) == 1
    log.close()


def test_logs_of_two_workers_go_into_one_file_line_by_line(tmp_path: Path) -> None:
    logs = [ExposureLog(tmp_path, "shop") for _ in range(2)]

    def work(log: ExposureLog) -> None:
        for place in range(100):
            log.add(shown(f"r{place}"))
            if place % 10 == 0:
                log.flush()

    threads = [threading.Thread(target=work, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()

    assert len(lines(tmp_path)) == 2 * 100


def test_more_than_may_wait_are_lost_and_counted(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path, "shop", counts := Counts(), most_waiting=3)
    log._thread = threading.current_thread()  # nobody writes
    for place in range(5):
        log.add(shown(f"r{place}"))
    log.flush()

    assert (counts.logged, counts.lost) == (3, 2)
    assert [line["recommendation_id"] for line in lines(tmp_path)] == ["r0", "r1", "r2"]


def test_a_disk_that_fails_makes_exposures_wait_and_no_half_line_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = ExposureLog(tmp_path, "shop", counts := Counts(), most_waiting=3)
    log._thread = threading.current_thread()

    def full(file: Any, data: bytes) -> None:
        write_all(file, data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(exposure, "write_all", full)
    for place in range(3):
        log.add(shown(f"r{place}"))
    log.flush()
    log.flush()

    assert lines(tmp_path) == []
    assert caplog.text.count("cannot be written") == 1
    monkeypatch.setattr(exposure, "write_all", write_all)
    log.flush()
    assert [line["recommendation_id"] for line in lines(tmp_path)] == ["r0", "r1", "r2"]
    assert (counts.logged, counts.lost) == (3, 0)


def test_what_cannot_be_written_at_the_end_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    log = ExposureLog(tmp_path / "file" / "below", "shop", counts := Counts())
    log.add(shown("r1"))
    log.close()

    assert (counts.logged, counts.lost) == (0, 1)
