"""What stands between a node and its server, and breaks: a TCP front in a thread of its own, changed by name.

``through`` forwards. The others are the ways in which servers and proxies fail: ``down`` refuses, ``reset`` hangs up,
``429`` and ``503`` say so, ``garbage`` is no HTTP, ``half-open`` accepts and is silent, ``slow-loris`` answers a byte
at a time, ``frozen`` keeps every socket open and forwards nothing, ``keeps-open`` hides from the server that the
node's end has gone. Only loopback; it knows nothing of what is forwarded. tcp(7).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

MODES = ("down", "reset", "429", "503", "garbage", "half-open", "slow-loris", "frozen")
PATIENCE_S = 30.0
_RESET = struct.pack("ii", 1, 0)


class Front:
    """A port that forwards, or does not.

    Attributes:
        port: the same in every mode.
        attempts: connections that came since the mode was set; None is counted while it refuses.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.attempts = 0
        self._upstream_port = upstream_port
        self._mode = "through"
        self._flows = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front")
        self._thread.start()
        self._run(self._listen())
        self._run(self._set("through"))

    @property
    def url(self) -> str:
        """What nodes dial."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: str) -> None:
        """Behave like this from now on; connections that it would not have are dropped."""
        self._run(self._set(mode))

    def close(self) -> None:
        """End all of it."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, mode: str) -> None:
        self._mode, self.attempts = mode, 0
        if mode in {"through", "keeps-open"}:
            self._flows.set()
        else:
            self._flows.clear()
        if mode not in {"frozen", "keeps-open", "through"}:
            await self._drop_all()
        if mode == "down" and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != "down" and self._server is None:
            await self._listen()

    async def _drop_all(self) -> None:
        for writer in self._open:
            _abort(writer)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._drop_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            # Cancelled is what the end of a mode, or of the front, does to it.
            with suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self._behave(reader, writer)
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            _abort(writer)

    async def _behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self._mode:
            case "through" | "frozen" | "keeps-open":
                await self._forward(reader, writer)
            case "429" | "503" as status:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    f"HTTP/1.1 {status} Not now\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".encode()
                )
                await writer.drain()
            case "garbage":
                await reader.read(1)
                writer.write(os.urandom(4096))
                await writer.drain()
            case "half-open":
                await asyncio.sleep(3600)
            case "slow-loris":
                for byte in b"HTTP/1.1 101 Switching Protocols\r\n" + b"X-Slow: yes\r\n" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.1)
            case _:
                return

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._open.add(up_writer)
        try:
            down = asyncio.create_task(self._pump(up_reader, writer))
            try:
                await self._pump(reader, up_writer)
                if self._mode == "keeps-open":
                    await asyncio.sleep(3600)
            finally:
                down.cancel()
                await asyncio.gather(down, return_exceptions=True)
        finally:
            self._open.discard(up_writer)
            _abort(up_writer)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(1 << 16):
                await self._flows.wait()
                sink.write(chunk)
                await sink.drain()
        if self._mode != "keeps-open":
            _abort(sink)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Hang up at once, by RST."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextmanager
def front(upstream_port: int) -> Iterator[Front]:
    """A front for the length of the block."""
    made = Front(upstream_port)
    try:
        yield made
    finally:
        made.close()
