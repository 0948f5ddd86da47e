"""One HTTP question on a fresh connection, and what became of it: an answer, or how it failed.

As bare as can be, so that the asker's own time stays small beside what is measured. tcp(7).
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question.

    Attributes:
        said: the status code's digits, or ``refused``, ``reset``, ``timeout``.
        body: of the answer.
    """

    said: str
    took_s: float
    body: bytes = b""


def ask(address: tuple[str, int], path: str = "/healthz", timeout_s: float = 5.0) -> Outcome:
    """Ask once. Never raises on what the other side does."""
    began_at = time.monotonic()
    received = b""
    try:
        with socket.create_connection(address, timeout=timeout_s) as client:
            client.settimeout(timeout_s)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n".encode())
            while chunk := client.recv(4096):
                received += chunk
        said = received[9:12].decode("latin-1") if received.startswith(b"HTTP/1.1 ") else "reset"
    except ConnectionRefusedError:
        said = "refused"
    except TimeoutError:
        said = "timeout"
    except OSError:
        said = "reset"
    return Outcome(said, time.monotonic() - began_at, received.partition(b"\r\n\r\n")[2])


def ask_until(
    address: tuple[str, int], said: str, path: str, *, gap_s: float = 0.001, timeout_s: float = 30.0
) -> float:
    """Ask again and again until the answer is `said`; when it came, CLOCK_MONOTONIC seconds.

    Raises:
        TimeoutError: it did not come.
    """
    until = time.monotonic() + timeout_s
    while True:
        if ask(address, path).said == said:
            return time.monotonic()
        if time.monotonic() > until:
            raise TimeoutError(f"{path} at {address} did not become {said} within {timeout_s:g} s")
        time.sleep(gap_s)


class Announcements:
    """A datagram socket at which programs say that they serve now: no polling, so nothing is phase-locked.

    Attributes:
        path: what the programs are told.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)

    def next_pid(self, timeout_s: float) -> int | None:
        """The pid of whoever announces itself next; None if nobody did."""
        self._socket.settimeout(max(timeout_s, 0.001))
        with suppress(TimeoutError, BlockingIOError):
            return int(self._socket.recv(64))
        return None

    def skip(self) -> None:
        """Forget those that have arrived."""
        while self.next_pid(0.001) is not None:
            pass

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
