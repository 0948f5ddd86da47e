"""HTTP connections of the vitals thread: bounded in number, in bytes and in time, and never waited for.

Each system call gives the interpreter lock away and must win it back from a spinning thread, so a request on a
fresh connection costs as few as possible: accept, recv, send, close, and no registration. O_NONBLOCK is not
set on connections, MSG_DONTWAIT says the same for one call less.

When all places are taken a new connection takes one: of the longest idle, else of the slowest. So slow clients
can crowd out each other, but no prober. What one client does or fails in is its own matter, and counted.
Knows nothing of routes. epoll(7), accept(2), RFC 9112 9.6 (how to close).
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.vitals.answers import REFUSALS
from agent.vitals.http_request import RequestRefused, parse_head
from agent.vitals.listener import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.vitals.http_request import Request

ACCEPTS_A_TURN = 64
PIPELINE_LIMIT = 16
"""Requests answered in one turn of a connection; then it ends."""
_READ_BYTES = 16 << 10
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20
_PAUSE_S = 0.25
_SWEEP_INTERVAL_S = 1.0
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_DONTWAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class _Client:
    __slots__ = (
        "closing",
        "deadline_at",
        "discarded",
        "fd",
        "idle",
        "is_loopback",
        "mask",
        "received",
        "sock",
        "unsent",
    )

    def __init__(self, sock: socket.socket, *, is_loopback: bool, deadline_at: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.is_loopback = is_loopback
        self.deadline_at = deadline_at
        self.received = b""
        self.unsent = b""
        self.mask = 0  # as registered with epoll; 0: not registered
        self.idle = False  # between requests
        self.closing = False  # the answer under way is the last
        self.discarded = -1  # bytes thrown away since our end was shut; -1: it is open


class Connections:
    """The listener and its clients, in somebody's epoll.

    Attributes:
        counts: what happened, by name.
        listener: None once it is lost: somebody shut it down.
    """

    def __init__(
        self,
        epoll: select.epoll,
        listener: socket.socket,
        answer: Callable[[Request, bool], bytes],
        limit: int,
        deadline_s: float,
        keepalive_s: float,
    ) -> None:
        """Accept from `listener`, which becomes ours."""
        self._epoll = epoll
        self.listener: socket.socket | None = listener
        self._listener_fd = listener.fileno()
        self._answer = answer
        self._limit = limit
        self._deadline_s = deadline_s
        self._keepalive_s = keepalive_s
        self._clients: dict[int, _Client] = {}
        self._paused_until: float | None = None
        self.counts = dict.fromkeys(
            (
                "accepted",
                "evicted",
                "timed_out",
                "reset",
                "failed",
                "accept_failed",
                "listener_lost",
                "overlong_pipeline",
            ),
            0,
        )
        self.refused_total: dict[int, int] = {}
        self._swept_at = 0.0
        epoll.register(self._listener_fd, select.EPOLLIN)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def next_sweep_at(self) -> float:
        """When `sweep` has something to look at."""
        if self._paused_until is not None:
            return self._paused_until
        return self._swept_at + _SWEEP_INTERVAL_S if self._clients else float("inf")

    def on_event(self, fd: int, mask: int, now: float) -> None:
        """Serve what epoll reported."""
        if fd == self._listener_fd:
            self._accept(now)
            return
        client = self._clients.get(fd)
        if client is not None:
            self._guarded(client, mask, now)

    def sweep(self, now: float) -> None:
        """End what is past its deadline; call it at `next_sweep_at`."""
        for client in [c for c in self._clients.values() if c.deadline_at <= now]:
            if not client.idle and client.discarded < 0:
                self.counts["timed_out"] += 1
            self._close(client)
        if self._paused_until is not None and self._paused_until <= now and self.listener is not None:
            self._paused_until = None
            self._epoll.modify(self._listener_fd, select.EPOLLIN)
        self._swept_at = now

    def close(self) -> None:
        """End everything; the epoll is closed already."""
        for client in self._clients.values():
            client.sock.close()
        self._clients.clear()
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def _drop_listener(self) -> None:
        if self.listener is not None:
            # The supervisor holds it open, so closing alone would leave it in the epoll.
            with suppress(OSError):
                self._epoll.unregister(self._listener_fd)
            self.listener.close()
            self.listener = None
            self._listener_fd = -1
            self._paused_until = None

    def _accept(self, now: float) -> None:
        listener = self.listener
        if listener is None:
            return
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._accept_failed(error, now)
                return
            self.counts["accepted"] += 1
            if len(self._clients) >= self._limit:
                self._evict()
            client = _Client(sock, is_loopback=is_loopback(address), deadline_at=now + self._deadline_s)
            self._clients[client.fd] = client
            self._guarded(client, select.EPOLLIN, now)

    def _accept_failed(self, error: OSError, now: float) -> None:
        self.counts["accept_failed"] += 1
        if error.errno in _NO_ROOM:
            # Level-triggered, the listener would wake us for ever; descriptors may come back.
            self._paused_until = now + _PAUSE_S
            self._epoll.modify(self._listener_fd, 0)
        elif error.errno in {errno.EINVAL, errno.EBADF, errno.ENOTSOCK}:
            self.counts["listener_lost"] += 1
            self._drop_listener()

    def _evict(self) -> None:
        clients = self._clients.values()
        idle = [client for client in clients if client.idle]
        self.counts["evicted"] += 1
        self._close(min(idle or clients, key=_deadline))

    def _guarded(self, client: _Client, mask: int, now: float) -> None:
        try:
            if mask & select.EPOLLIN or not mask & select.EPOLLOUT:
                self._receive(client, now)
            else:
                self._flush(client, now)
        except BlockingIOError:
            self._await(client, select.EPOLLIN)
        except OSError:
            self.counts["reset"] += 1
            self._close(client)
        except Exception:
            self.counts["failed"] += 1
            with suppress(OSError):
                client.sock.send(REFUSALS[500], _DONTWAIT)
            self._close(client)

    def _receive(self, client: _Client, now: float) -> None:
        chunk = client.sock.recv(_READ_BYTES, _DONTWAIT)
        if not chunk:
            self._close(client)
            return
        if client.discarded >= 0:
            client.discarded += len(chunk)
            if client.discarded > _LINGER_BYTES:
                self._close(client)
            return
        if client.idle:
            client.idle = False
            client.deadline_at = now + self._deadline_s
        client.received += chunk
        self._respond(client, now)

    def _respond(self, client: _Client, now: float) -> None:
        answers = []
        try:
            while client.received and not client.closing:
                parsed = parse_head(client.received)
                if parsed is None:
                    break
                request, length = parsed
                client.received = client.received[length:]
                answers.append(self._answer(request, client.is_loopback))
                client.closing = not request.keep_alive
                if len(answers) == PIPELINE_LIMIT and client.received:
                    self.counts["overlong_pipeline"] += 1
                    client.closing = True
        except RequestRefused as refused:
            self.refused_total[refused.status] = self.refused_total.get(refused.status, 0) + 1
            answers.append(REFUSALS[refused.status])
            client.closing = True
            client.received = client.received or b"-"
        if answers:
            client.unsent = b"".join(answers)
            self._flush(client, now)
        else:
            self._await(client, select.EPOLLIN)

    def _flush(self, client: _Client, now: float) -> None:
        try:
            sent = client.sock.send(client.unsent, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        client.unsent = client.unsent[sent:]
        if client.unsent:
            # Until the answer is taken nothing more is read.
            self._await(client, select.EPOLLOUT)
        elif not client.closing:
            client.idle = not client.received
            client.deadline_at = now + (self._keepalive_s if client.idle else self._deadline_s)
            self._await(client, select.EPOLLIN)
        elif client.received:
            # Closed with bytes unread the kernel would send RST, and the answer could be lost on its way.
            client.received = b""
            client.discarded = 0
            client.deadline_at = now + _LINGER_S
            client.sock.shutdown(socket.SHUT_WR)
            self._await(client, select.EPOLLIN)
        else:
            self._close(client)

    def _await(self, client: _Client, mask: int) -> None:
        if client.mask != mask:
            if client.mask:
                self._epoll.modify(client.fd, mask)
            else:
                self._epoll.register(client.fd, mask)
            client.mask = mask

    def _close(self, client: _Client) -> None:
        if self._clients.pop(client.fd, None) is not None:
            if client.mask:
                # Closing is not enough while a child between fork and exec holds a copy.
                with suppress(OSError):
                    self._epoll.unregister(client.fd)
            client.sock.close()


def _deadline(client: _Client) -> float:
    return client.deadline_at
