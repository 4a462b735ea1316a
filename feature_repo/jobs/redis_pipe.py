"""A Redis connection on which commands are sent and replies read at the same time.

A client that only sends and a server that only answers block each other once the buffers between
them are full. A thread of its own does both here, so that the caller makes the next commands
meanwhile. Replies are taken in large pieces: waking up for each costs more than they do.
"""

from __future__ import annotations

import contextlib
import queue
import select
import ssl
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import hiredis

from feature_repo.contract.errors import StoreUnavailable

DEPTH = 2
"""Messages that wait to be sent before ``submit`` blocks."""

_SEND, _RECEIVE = 1 << 20, 1 << 16
"""Most bytes that are sent and received at a time."""
_FULL_S = 0.02
"""Between two looks for replies while the server takes no more commands."""
_IDLE_S = 0.002
"""Between two looks for replies while there is nothing to send."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_INCOMPLETE: Any = object()


@dataclass
class _Message:
    commands: memoryview
    num_replies: int
    replies: list[Any] = field(default_factory=list)
    future: Future[list[Any]] = field(default_factory=Future)


class Pipe:
    """One connection; messages are answered in the order in which they are submitted."""

    def __init__(self, connection: Any, stall_s: float = 60.0) -> None:
        """Take over a connected redis-py connection, which ``close`` closes."""
        self._connection = connection
        # redis-py authenticates, selects the database and speaks TLS. It has no public way to
        # send and receive at the same time, hence its socket.
        self._socket = connection._sock
        self._socket.setblocking(False)
        self._stall_s = stall_s
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._queue: queue.Queue[_Message | None] = queue.Queue(DEPTH)
        self._awaited: deque[_Message] = deque()
        self._active_at = 0.0
        self._thread = threading.Thread(target=self._run, name="redis-pipe", daemon=True)
        self._thread.start()

    def submit(self, commands: memoryview, num_replies: int) -> Future[list[Any]]:
        """Send commands; their replies, in order, are the future's result.

        The future raises ``StoreUnavailable`` where the server goes away, stops answering, or
        answers any of them with an error.
        """
        message = _Message(commands, num_replies)
        self._queue.put(message)
        return message.future

    def close(self) -> None:
        """Wait for the replies to what was submitted, then close the connection."""
        self._queue.put(None)
        self._thread.join()
        self._connection.disconnect()

    def _run(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._active_at = time.monotonic()
                self._awaited.append(message)
                self._send(message.commands)
            while self._awaited:
                time.sleep(_IDLE_S)
                self._receive()
        except StoreUnavailable as error:
            self._fail(error)
        except (OSError, hiredis.HiredisError) as error:
            self._fail(StoreUnavailable(str(error)))

    def _next(self) -> _Message | None:
        """The next message, or None at the end; looks for replies until there is one."""
        while self._awaited:
            try:
                return self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                self._receive()
        return self._queue.get()

    def _send(self, commands: memoryview) -> None:
        sent = 0
        while sent < len(commands):
            try:
                sent += self._socket.send(commands[sent : sent + _SEND])
                self._active_at = time.monotonic()
            except _NOT_NOW:
                select.select([], [self._socket], [], _FULL_S)
            self._receive()

    def _receive(self) -> None:
        """Take what has arrived."""
        closed = False
        with contextlib.suppress(*_NOT_NOW):
            while data := self._socket.recv(_RECEIVE):
                self._active_at = time.monotonic()
                self._reader.feed(data)
            closed = True
        self._settle()
        if self._awaited and closed:
            raise StoreUnavailable("it closed the connection")
        if self._awaited and time.monotonic() - self._active_at > self._stall_s:
            raise StoreUnavailable(f"it has not answered for {self._stall_s:g} s")

    def _settle(self) -> None:
        """Give out the replies that are whole."""
        while self._awaited:
            message = self._awaited[0]
            while len(message.replies) < message.num_replies:
                reply = self._reader.gets()
                if reply is _INCOMPLETE:
                    return
                message.replies.append(reply)
            if hiredis.ReplyError in set(map(type, message.replies)):
                errors = [x for x in message.replies if isinstance(x, hiredis.ReplyError)]
                raise StoreUnavailable(f"it answered: {str(errors[0]).rstrip('.')}")
            self._awaited.popleft().future.set_result(message.replies)

    def _fail(self, error: StoreUnavailable) -> None:
        """Fail everything submitted so far, and from now on until ``close``."""
        for message in self._awaited:
            message.future.set_exception(error)
        while (later := self._queue.get()) is not None:
            later.future.set_exception(error)
