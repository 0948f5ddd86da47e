"""Where simulated nodes listen: doors that open and close, and behind them a lean HTTP answerer.

One listening socket serves any number of addresses: it is bound to all addresses, and to the device `lo`, so
that nothing from outside this machine reaches it; the accepted connection tells which node was meant. A closed
door refuses as a closed port does, and keeps its number. Nodes that come and go one by one have a door of their
own, on their own address. What is answered, the node decides. socket(7) SO_BINDTODEVICE.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG: Final = 4096
_END_OF_REQUEST: Final = b"\r\n\r\n"
LONGEST_REQUEST_BYTES: Final = 16 * 1024


class Answerer(Protocol):
    """A node, as its connections see it."""

    connections: set[Answering]

    def asked(self, connection: Answering) -> None:
        """Answer now, later or never, by `connection.answer`."""
        ...


class Answering(asyncio.Protocol):
    """One connection of a prober, kept alive for as long as the prober likes."""

    __slots__ = ("_find", "_node", "_received", "_transport")

    def __init__(self, find: Callable[[str], Answerer | None]) -> None:
        self._find = find
        self._node: Answerer | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out which node was meant."""
        assert isinstance(transport, asyncio.Transport)
        self._node = self._find(transport.get_extra_info("sockname")[0])
        if self._node is None:
            transport.abort()
            return
        self._transport = transport
        self._node.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Have each whole request answered; what is asked for is known."""
        if self._node is None:
            return
        self._received += data
        while (end := self._received.find(_END_OF_REQUEST)) >= 0:
            self._received = self._received[end + len(_END_OF_REQUEST) :]
            self._node.asked(self)
        if len(self._received) > LONGEST_REQUEST_BYTES:
            self.drop()

    def answer(self, response: bytes) -> None:
        """Send a rendered response."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)

    def drop(self) -> None:
        """Break the connection off."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget it."""
        if self._node is not None:
            self._node.connections.discard(self)
        self._transport = None


class Door:
    """A port that is ours for as long as it lives, open or closed."""

    def __init__(self, find: Callable[[str], Answerer | None], host: str | None = None) -> None:
        """Take a free port, still closed.

        Args:
            find: gives the node of an address.
            host: one address; None: all addresses of the loopback device.
        """
        self._find = find
        self._host = host
        self._server: asyncio.Server | None = None
        self._kept: socket.socket | None = self._bound(0)
        self.port: int = self._kept.getsockname()[1]

    async def open(self) -> None:
        """Listen; does nothing if it is open."""
        if self._server is None:
            bound, self._kept = self._kept or self._bound(self.port), None
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Answering(self._find), sock=bound, backlog=BACKLOG
            )

    def shut(self) -> None:
        """Listen no more; connections that stand are not touched."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Give the port up."""
        self.shut()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            if self._host is None:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
            bound.bind((self._host or "0.0.0.0", port))  # noqa: S104  # of the loopback device alone
        except BaseException:
            bound.close()
            raise
        return bound
