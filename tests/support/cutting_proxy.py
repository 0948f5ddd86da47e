"""A TCP proxy that cuts its first connection after so many bytes in one direction, and passes all later ones through.

The cut is a reset towards both ends, at the very byte: what came before it was passed on, nothing after it in either
direction. It counts what it passes, so that a test can learn how long the conversation is. tcp(7).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@unique
class Direction(StrEnum):
    """Which way the counted bytes go."""

    UP = "to the server"
    DOWN = "to the node"


@dataclass(slots=True)
class CuttingProxy:
    """A running proxy.

    Attributes:
        port: where it listens.
        passed: bytes of its first connection, by direction.
        has_cut: whether the cut was made.
    """

    upstream_port: int
    direction: Direction | None
    after_bytes: int
    port: int = 0
    connections_total: int = 0
    has_cut: bool = False
    passed: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, node: asyncio.StreamReader, to_node: asyncio.StreamWriter) -> None:
        """Pass one connection on, until either end closes it or it is cut."""
        self.connections_total += 1
        is_first = self.connections_total == 1
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            to_node.transport.abort()
            return
        pumps = {
            asyncio.create_task(self._pump(node, to_server, Direction.UP, is_first=is_first)),
            asyncio.create_task(self._pump(server, to_node, Direction.DOWN, is_first=is_first)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            to_server.transport.abort()
            to_node.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
        *,
        is_first: bool,
    ) -> None:
        with suppress(ConnectionError):
            while chunk := await source.read(65536):
                if is_first:
                    left = self.after_bytes - self.passed[direction]
                    if direction is self.direction and len(chunk) >= left:
                        self.passed[direction] += left
                        sink.write(chunk[:left])
                        # What was written before an abort would be thrown away with the socket's buffer.
                        await sink.drain()
                        await asyncio.sleep(0)
                        self.has_cut = True
                        return
                    self.passed[direction] += len(chunk)
                sink.write(chunk)
                await sink.drain()


@asynccontextmanager
async def cutting_proxy(
    upstream_port: int, direction: Direction | None = None, after_bytes: int = 0
) -> AsyncIterator[CuttingProxy]:
    """Run a proxy for the length of the block; without a direction it cuts nothing."""
    proxy = CuttingProxy(upstream_port, direction, after_bytes)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
