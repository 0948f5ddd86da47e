"""Beats on their way: one unconnected, non-blocking datagram each.

Unconnected, because a connected socket gets ENOTCONN for ever once the supervisor was restarted. What cannot be
sent is counted by its error and never waited for: the next beat says all that this one said.
unix(7), sendto(2), sd_notify(3).
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from nanny.protocol.notify_format import render

if TYPE_CHECKING:
    from nanny.protocol.notify_format import Beat


class HeartbeatSender:
    """The way to one notify socket.

    Attributes:
        sent_total: beats that the kernel took.
        failed_total: by the error's name, such as ``ECONNREFUSED``.
        is_full: the last beat was not sent since the queue of whoever listens was full.
        unheard: beats in a row for which there was nobody; a full queue is somebody's.
    """

    def __init__(self, notify_socket: str) -> None:
        """Send to `notify_socket`: a path, or ``@`` and an abstract name.

        Raises:
            ValueError: neither a path nor an abstract name.
        """
        if not notify_socket.startswith(("/", "@")):
            raise ValueError(f"NOTIFY_SOCKET is {notify_socket[:120]!r}, a path or @name expected")
        is_abstract = notify_socket.startswith("@")
        self._address = "\0" + notify_socket[1:] if is_abstract else notify_socket
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.sent_total = 0
        self.failed_total: dict[str, int] = {}
        self.unheard = 0
        self.is_full = False

    def send(self, beat: Beat) -> bool:
        """Send without waiting; gives whether the kernel took it."""
        try:
            self._socket.sendto(render(beat), socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "other")
            self.failed_total[name] = self.failed_total.get(name, 0) + 1
            self.is_full = error.errno == errno.EAGAIN
            if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                self.unheard += 1
            return False
        self.is_full = False
        self.sent_total += 1
        self.unheard = 0
        return True

    def close(self) -> None:
        """Send no more."""
        self._socket.close()
