"""The load generator, against a server of a few lines."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks._open_loop import Outcome, encoded, run_load
from benchmarks.serving import Config
from feature_repo.contract.errors import ConfigError

DELAY_S = 0.03


@contextmanager
def served(status: str, body: bytes = b'{"degraded":[]}') -> Iterator[int]:
    """A server that takes its time for every request of a connection: its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                length = 0
                while (line := self.rfile.readline().strip().lower()) != b"":
                    name, _, value = line.partition(b":")
                    length = int(value) if name == b"content-length" else length
                self.rfile.read(length)
                time.sleep(DELAY_S)
                head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def load(port: int, connections: int) -> Outcome:
    request = encoded(f"127.0.0.1:{port}", "/recommend/", b'{"user_id":1}')
    return run_load(port, [request], rate=100, seconds=0.2, connections=connections)


def test_a_request_that_waits_for_others_is_late_from_when_it_was_due() -> None:
    with served("200 OK") as port:
        outcome = load(port, connections=1)

    # 20 requests within 0.3 s, which one connection takes 0.6 s for.
    assert len(outcome.latencies_s) == 20
    assert min(outcome.latencies_s) >= DELAY_S
    assert max(outcome.latencies_s) >= 20 * DELAY_S - 0.3
    assert outcome.failed == outcome.degraded == 0


def test_answers_of_another_status_fail_and_those_without_a_stage_are_counted() -> None:
    with served("429 Too Many Requests") as port:
        assert (load(port, 20).failed, load(port, 20).latencies_s) == (20, [])
    with served("200 OK", b'{"degraded":["ranking"]}') as port:
        assert load(port, 20).degraded == 20


@pytest.mark.parametrize(
    "settings", [{"rates": []}, {"rates": [0]}, {"seconds": 0}, {"workers": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be above zero"):
        Config(**settings)  # type: ignore[arg-type]
