"""Where simulated nodes listen: doors that open and close, and behind them a lean HTTP answerer.

One listening socket serves any number of addresses: it is bound to all addresses, and to the device `lo`, so
that nothing from outside this machine reaches it; the accepted connection tells which node was meant. A closed
door refuses as a closed port does, and keeps its number. Nodes that come and go one by one have a door of their
own, on their own address. What is answered, the node decides. socket(7) SO_BINDTODEVICE.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG: Final = 4096
ACCEPTED_A_TURN: Final = 64
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
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._node = self._find(transport.get_extra_info("sockname")[0])
        if self._node is None:
            self._transport.abort()
            return
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
        with self._bound(0) as found:
            port: int = found.getsockname()[1]
        # A port that was asked for by its number stays bound through the shutdown of the listener.
        self._socket = self._bound(port)
        self.port = port
        self._is_open = False
        self._being_let_in: set[asyncio.Task[object]] = set()

    def open(self) -> None:
        """Listen; does nothing if it is open."""
        if not self._is_open:
            self._is_open = True
            self._socket.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def shut(self) -> None:
        """Refuse from now on; connections that stand are not touched."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the port up."""
        self.shut()
        self._socket.close()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_A_TURN):
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            task: asyncio.Task[object] = loop.create_task(
                loop.connect_accepted_socket(lambda: Answering(self._find), accepted)
            )
            self._being_let_in.add(task)
            task.add_done_callback(self._being_let_in.discard)

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
