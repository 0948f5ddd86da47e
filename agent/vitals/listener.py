"""The listening socket: inherited and checked, or bound.

An inherited one is shared with the supervisor: its backlog outlives us, and connections that come while nobody
accepts are answered there. TCP_DEFER_ACCEPT lets the kernel hold connections that have sent nothing yet.
socket(7) SO_ACCEPTCONN, tcp(7).
"""

from __future__ import annotations

import socket

BACKLOG = 1024
_DEFER_S = 5


def inherited(fd: int) -> socket.socket | None:
    """The listening stream socket at `fd`, non-blocking and close-on-exec; None where there is none."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if (
            not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            or listener.type != socket.SOCK_STREAM
        ):
            listener.detach()
            return None
        listener.set_inheritable(False)
        _prepare(listener)
    except OSError:
        listener.detach()
        return None
    return listener


def bound(host: str, port: int) -> socket.socket:
    """A new listening socket at a numeric address.

    Raises:
        OSError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        _prepare(listener)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _prepare(listener: socket.socket) -> None:
    listener.setblocking(False)
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_S)


def is_loopback(address: object) -> bool:
    """The peer of an accepted connection is on this machine."""
    if not isinstance(address, tuple):
        return True  # AF_UNIX
    host = str(address[0])
    return host == "::1" or host.startswith(("127.", "::ffff:127."))
