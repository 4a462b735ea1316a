from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from serving.monitor.hook import Hook
from tests.serving.monitor.files import NOW

ALARM = {"alarms": [{"name": "spend"}]}


def test_a_command_gets_the_alarm_once_in_its_pause(tmp_path: Path) -> None:
    hook = Hook(f"cat >> {tmp_path / 'calls'}", tmp_path / "hook.json", pause_s=3600)

    called = [hook.call(ALARM, NOW + timedelta(minutes=n)) for n in (0, 30, 59, 61)]

    assert called == [True, False, False, True]
    assert (tmp_path / "calls").read_text() == 2 * json.dumps(ALARM)


def test_a_call_that_failed_is_told_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "hook.json"

    assert not Hook("echo no queue >&2; exit 3", state).call(ALARM, NOW)
    assert "exit status 3. no queue" in caplog.text
    assert Hook("true", state).call(ALARM, NOW)


def test_a_command_that_hangs_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Hook("exec sleep 30", tmp_path / "hook.json", timeout_s=0.2).call(ALARM, NOW)
    assert "more than 0.2 s" in caplog.text


def test_workers_call_it_once_together(tmp_path: Path) -> None:
    hook = Hook(f"echo called >> {tmp_path / 'calls'}", tmp_path / "hook.json")
    threads = [threading.Thread(target=hook.call, args=(ALARM, NOW)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (tmp_path / "calls").read_text() == "called\n"


class Posted(BaseHTTPRequestHandler):
    """Takes what is posted."""

    bodies: list[bytes]
    status = 200

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Posted.bodies, Posted.status = [], 200
    server = HTTPServer(("127.0.0.1", 0), Posted)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/retrain"
    server.shutdown()
    server.server_close()


def test_an_address_is_posted_to(tmp_path: Path, address: str) -> None:
    hook = Hook(address, tmp_path / "hook.json")

    Posted.status = 503
    assert not hook.call(ALARM, NOW)
    Posted.status = 200
    assert hook.call(ALARM, NOW)
    assert [json.loads(body) for body in Posted.bodies] == [ALARM, ALARM]


def test_a_broken_state_is_told_and_does_not_keep_the_alarm_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hook.json").write_text("{")

    assert Hook("true", tmp_path / "hook.json").call(ALARM, NOW)
    assert "does not say when" in caplog.text
    assert Hook("true", tmp_path / "hook.json").called_at() == NOW
