"""The way to a store, which may be slow: a process of its own, so that nothing else delays it."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from typing import Any


class Proxy:
    """Passes on what comes to a port, as late as it is told."""

    def __init__(self, port: int, to: int) -> None:
        """Start to listen.

        Args:
            port: to listen on.
            to: port of the store.
        """
        context = multiprocessing.get_context("spawn")
        self.port = port
        self._delay_s, started = context.Value("d", 0.0), context.Event()
        arguments = (port, to, self._delay_s, started)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        started.wait(60.0)

    def delay(self, seconds: float) -> None:
        """Let every message to the store be so late."""
        self._delay_s.value = seconds

    def stop(self) -> None:
        """Listen no more."""
        self._process.kill()
        self._process.join()


def _run(port: int, to: int, delay_s: Any, started: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            back, there = await asyncio.open_connection("127.0.0.1", to)
            ways = _pass(reader, there, delay_s), _pass(back, writer, None)
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            there.close()
        writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        started.set()
        await server.serve_forever()

    asyncio.run(listen())


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: Any) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            if delay_s is not None and delay_s.value:
                await asyncio.sleep(delay_s.value)
            writer.write(data)
            await writer.drain()
