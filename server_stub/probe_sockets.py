"""Connections to all nodes' /healthz: thousands of sockets in one epoll, two system calls for a request.

Each carries one request at a time and is kept between requests. The event loop watches the one descriptor of
the epoll; a socket is registered once, edge-triggered, for its whole life. Whoever asks learns by callback
what came: a response, or how the connection failed, never both and never after he gave up. A kept connection
on which anything happens while nobody asks is closed. Knows HTTP's framing and nothing of health, budgets and
names. epoll(7), connect(2), RFC 9112 9.3 and 9.5.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from server_stub.core.http_response import BadResponse, ResponseReader

if TYPE_CHECKING:
    import asyncio

    from server_stub.core.http_response import Response
    from server_stub.name_lookup import Address

EVENTS_A_TURN: Final = 256
_READ_BYTES: Final = 64 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EAGAIN, errno.EALREADY})
_GONE: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})
_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_OVER: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_NEWS: Final = select.EPOLLIN | _OVER


class Asker(Protocol):
    """Who asked; exactly one of these is called for each request, once, and none after `leave`."""

    def answered(self, response: Response) -> None:
        """A whole response came."""
        ...

    def refused(self, error: BadResponse) -> None:
        """What came is no response."""
        ...

    def failed(self, number: int) -> None:
        """The connection failed with this errno; ECONNRESET also when it ended before the response did."""
        ...

    def closed_before(self) -> None:
        """A kept connection turned out to have been closed before any byte of a response: no evidence."""
        ...


class Phase(Enum):
    """Where a connection stands."""

    CONNECTING = auto()
    ASKING = auto()
    IDLE = auto()
    CLOSED = auto()


class ProbeSockets:
    """The epoll and all that is in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch.

        Raises:
            OSError: no descriptor left.
        """
        self._loop = loop
        self._epoll = select.epoll()
        self._by_fd: dict[int, ProbeConnection] = {}
        self.turn = 0
        loop.add_reader(self._epoll.fileno(), self._on_events)

    def __len__(self) -> int:
        return len(self._by_fd)

    def connect(self, address: Address, origin: tuple[str, int], asker: Asker) -> ProbeConnection:
        """Open a connection to `address` and ask `origin`, host and port, on it.

        Raises:
            OSError: it failed at once.
            ValueError: the host is none that can be written into a request, or the port is out of range.
        """
        request = render_request(*origin)
        family, where = address
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            number = sock.connect_ex(where)
            if number not in _UNDER_WAY and number != 0:
                raise OSError(number, os.strerror(number))
            self._epoll.register(sock, _EVENTS)
        except BaseException:
            sock.close()
            raise
        connection = ProbeConnection(self, sock, origin, request, asker)
        self._by_fd[connection.fd] = connection
        return connection

    def close(self) -> None:
        """Close everything; nobody is told."""
        for connection in list(self._by_fd.values()):
            connection.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def forget(self, connection: ProbeConnection) -> None:
        """Take a connection out that is about to be closed."""
        self._by_fd.pop(connection.fd, None)

    def _on_events(self) -> None:
        self.turn += 1
        for fd, events in self._epoll.poll(0, EVENTS_A_TURN):
            connection = self._by_fd.get(fd)
            # A descriptor that was closed and given out again within this turn: the event is not for it.
            if connection is not None and connection.opened_in != self.turn:
                try:
                    connection.on_events(events)
                except Exception as error:  # the others' events are told only once
                    connection.close(reset=True)
                    self._loop.call_exception_handler({"message": "an asker raised", "exception": error})


class ProbeConnection:
    """One connection to one node."""

    __slots__ = (
        "_asker", "_is_reused", "_owner", "_reader", "_request", "_sock", "_unsent", "fd", "opened_in", "origin",
        "phase",
    )  # fmt: skip

    def __init__(
        self,
        owner: ProbeSockets,
        sock: socket.socket,
        origin: tuple[str, int],
        request: bytes,
        asker: Asker,
    ) -> None:
        """Made by `ProbeSockets.connect`."""
        self._owner = owner
        self._sock = sock
        self._request = request
        self._unsent = request
        self._asker: Asker | None = asker
        self._reader = ResponseReader()
        self._is_reused = False
        self.origin = origin
        self.fd = sock.fileno()
        self.opened_in = owner.turn
        self.phase = Phase.CONNECTING

    def ask(self, asker: Asker) -> None:
        """Ask again on an idle connection. `asker` may be called before this returns."""
        assert self.phase is Phase.IDLE, self.phase
        self._asker = asker
        self._is_reused = True
        self._reader.reset()
        self.phase = Phase.ASKING
        self._unsent = self._request
        self._send()

    def leave(self) -> None:
        """Nobody waits for the answer any more: it is not to be told, and the connection is of no further use."""
        self._asker = None
        self.close(reset=True)

    def close(self, *, reset: bool = False) -> None:
        """Close without a word to the asker; with `reset` nothing of it is left in the kernel."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self._owner.forget(self)
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()

    def on_events(self, events: int) -> None:
        """Take in what epoll told."""
        match self.phase:
            case Phase.CONNECTING:
                number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number:
                    self._fail(number)
                elif events & (select.EPOLLOUT | select.EPOLLHUP):
                    self.phase = Phase.ASKING
                    self._send()
            case Phase.ASKING:
                if self._unsent and events & select.EPOLLOUT:
                    self._send()
                if self.phase is Phase.ASKING and events & _NEWS:
                    self._receive(is_over=bool(events & _OVER))
            case Phase.IDLE:
                if events & _NEWS:
                    self.close()
            case Phase.CLOSED:
                pass

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._unsent, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.errno or errno.EIO)
            return
        self._unsent = self._unsent[sent:]

    def _receive(self, *, is_over: bool) -> None:
        # Edge-triggered: until less comes than was asked for, or the answer is whole.
        while self.phase is Phase.ASKING:
            try:
                received = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error.errno or errno.EIO)
                return
            try:
                response = self._reader.feed(received) if received else self._reader.end()
            except BadResponse as refusal:
                self._end().refused(refusal)
                return
            if response is not None:
                self._answer(response, is_over=is_over)
            elif not received:
                self._fail(errno.ECONNRESET)

    def _answer(self, response: Response, *, is_over: bool) -> None:
        if response.keeps_alive and not self._reader.has_excess and not is_over and not self._unsent:
            asker, self._asker = self._asker, None
            assert asker is not None, "an answer that nobody waits for"
            self.phase = Phase.IDLE
        else:
            asker = self._end()
        asker.answered(response)

    def _fail(self, number: int) -> None:
        was_closed_before = self._is_reused and number in _GONE and not self._reader.has_begun
        asker = self._end()
        if was_closed_before:
            asker.closed_before()
        else:
            asker.failed(number)

    def _end(self) -> Asker:
        asker, self._asker = self._asker, None
        assert asker is not None, "a failure that nobody waits for"
        self.close()
        return asker


def render_request(host: str, port: int) -> bytes:
    """Give the request for a host and port.

    Raises:
        ValueError: the host has characters that no host has.
    """
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    if not name or not name.isprintable() or any(letter in name for letter in " /?#@\\"):
        raise ValueError(f"{host[:80]!r} is no host")
    where = f"[{name}]" if ":" in name else name
    return (
        f"GET /healthz HTTP/1.1\r\nHost: {where}:{port}\r\n"
        "User-Agent: nodenanny-server\r\nAccept: application/json\r\n\r\n"
    ).encode("ascii")
