"""The connection that sends and receives at once, against small servers of the tests' own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from feature_repo.contract.errors import StoreUnavailable
from feature_repo.jobs.redis_pipe import Pipe

PING = b"*1\r\n$4\r\nPING\r\n"


class Connection:
    """What a pipe uses of a redis-py connection, which would greet the server first."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))

    def disconnect(self) -> None:
        self._sock.close()


def _read_all(connection: socket.socket) -> None:
    """Until the other side closes; closing before it would throw away what was sent."""
    while connection.recv(1 << 16):
        pass


@contextlib.contextmanager
def served_by(behave: Callable[[socket.socket], None], stall_s: float = 60.0) -> Iterator[Pipe]:
    """A pipe to a server that does ``behave`` with its one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pipe = Pipe(Connection(listener.getsockname()[1]), stall_s)
        try:
            yield pipe
        finally:
            pipe.close()
            thread.join(10)


def test_a_server_that_takes_nothing_before_its_answers_are_taken_does_not_block_it() -> None:
    line = b"+" + b"x" * 61 + b"\r\n"
    count = 400_000  # 25 MB, several times what the sockets' buffers hold

    def echo(connection: socket.socket) -> None:
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, buffer, 1 << 16)
        left = count * len(line)
        while left and (data := connection.recv(1 << 16)):
            connection.sendall(data)
            left -= len(data)

    with served_by(echo) as pipe:
        replies = pipe.submit(memoryview(line * count), count).result(timeout=60)

    assert (len(replies), set(replies)) == (count, {b"x" * 61})


def test_replies_belong_to_the_messages_in_order() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b":1\r\n:2\r")
        connection.sendall(b"\n$-1\r\n$3\r\na\r\n\r\n")
        _read_all(connection)

    with served_by(answer) as pipe:
        first = pipe.submit(memoryview(PING * 2), 2)
        second = pipe.submit(memoryview(PING * 2), 2)

        assert first.result(timeout=10) == [1, 2]
        assert second.result(timeout=10) == [None, b"a\r\n"]


def test_an_error_among_the_replies_is_told() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b":1\r\n-OOM command not allowed\r\n")
        _read_all(connection)

    with served_by(answer) as pipe:
        with pytest.raises(StoreUnavailable, match="OOM command not allowed"):
            pipe.submit(memoryview(PING * 2), 2).result(timeout=10)
        with pytest.raises(StoreUnavailable, match="OOM"):  # and everything after it
            pipe.submit(memoryview(PING), 1).result(timeout=10)


def test_a_server_that_closes_the_connection_is_told() -> None:
    def leave(connection: socket.socket) -> None:
        connection.recv(1 << 16)

    with served_by(leave) as pipe, pytest.raises(StoreUnavailable):
        pipe.submit(memoryview(PING), 1).result(timeout=10)


def test_a_server_that_stops_answering_is_told() -> None:
    def keep_quiet(connection: socket.socket) -> None:
        _read_all(connection)

    with (
        served_by(keep_quiet, stall_s=0.1) as pipe,
        pytest.raises(StoreUnavailable, match=r"has not answered for 0\.1 s"),
    ):
        pipe.submit(memoryview(PING), 1).result(timeout=10)
