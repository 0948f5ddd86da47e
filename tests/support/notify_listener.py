"""The supervisor's end of a notify socket, for tests: datagrams in, parsed with when they arrived.

unix(7), sd_notify(3).
"""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nanny.protocol.notify_format import Beat, parse


class NotifyListener:
    """A bound notify socket; `beats` holds all that was heard so far."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._socket = sock
        self.address = address
        self.beats: list[Beat] = []

    def hear(self, timeout_s: float = 10.0) -> Beat:
        """Give the next beat.

        Raises:
            AssertionError: none came within `timeout_s`.
        """
        self._socket.settimeout(timeout_s)
        try:
            self.beats.append(parse(self._socket.recv(1 << 16)))
        except TimeoutError:
            last = self.beats[-1:]
            raise AssertionError(f"no beat within {timeout_s} s; the last: {last}") from None
        return self.beats[-1]

    def hear_until(self, holds: Callable[[Beat], object], timeout_s: float = 20.0) -> Beat:
        """Give the first beat from now on of which `holds` is true.

        Raises:
            AssertionError: none came within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            beat = self.hear(max(0.001, deadline - time.monotonic()))
            if holds(beat):
                return beat

    def skip(self) -> None:
        """Throw away what has arrived."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(1 << 16)
        except BlockingIOError:
            return


@contextmanager
def notify_listener(*, abstract: bool = False) -> Iterator[NotifyListener]:
    """Listen at a fresh address, short enough for AF_UNIX."""
    with (
        tempfile.TemporaryDirectory(prefix="nt") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        path = str(Path(folder) / "notify")
        sock.bind("\0" + path if abstract else path)
        yield NotifyListener(sock, "@" + path if abstract else path)
