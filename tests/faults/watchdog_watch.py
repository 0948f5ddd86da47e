"""Stands for systemd above a nanny: hears READY=1 and WATCHDOG=1, and knows whether a petting was ever missed.

The kernel names the sender of each datagram (SCM_CREDENTIALS), so the pettings of two nannies are never taken for
those of one. The watch measures its own lateness, too: on a machine that stood still for two seconds, a petting that
came two seconds late was not missed by the nanny. sd_notify(3), sd_watchdog_enabled(3), unix(7).
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_S = 0.05
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class _Heard:
    """What one nanny has said."""

    pets_at: list[float] = field(default_factory=list)
    ready_at: float | None = None


class WatchdogWatch:
    """A notify socket that is read at once, in a thread of its own.

    Attributes:
        address: for NOTIFY_SOCKET.
        interval_s: the WatchdogSec that the nannies are told.
    """

    def __init__(self, directory: str, interval_s: float) -> None:
        self.address = os.path.join(directory, "notify")
        self.interval_s = interval_s
        self._heard: dict[int, _Heard] = {}
        self._late: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._listen, name="watchdog-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._end)

    @property
    def environ(self) -> dict[str, str]:
        """What systemd would put into the nanny's environment."""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(self.interval_s * 1e6))}

    def is_ready(self, pid: int) -> bool:
        """Whether this nanny has said READY=1."""
        with self._lock:
            return pid in self._heard and self._heard[pid].ready_at is not None

    def pets_of(self, pid: int) -> list[float]:
        """When this nanny petted, CLOCK_MONOTONIC seconds."""
        with self._lock:
            return list(self._heard[pid].pets_at) if pid in self._heard else []

    def missed(self, pid: int, since: float, until: float) -> list[str]:
        """Each silence of this nanny between two instants that systemd would have ended it for, in words."""
        with self._lock:
            heard = self._heard.get(pid)
            at = [] if heard is None else [heard.ready_at or since, *heard.pets_at]
            late = list(self._late)
        if not at:
            return [f"nanny {pid} never said anything"] if until - since > self.interval_s else []
        points = [*sorted(one for one in at if one < until), until]
        missed = []
        for began, ended in pairwise(points):
            if ended <= since:
                continue
            machine_away_s = sum(late_s for late_at, late_s in late if began <= late_at <= ended)
            silent_s = ended - began - machine_away_s
            if silent_s > self.interval_s:
                missed.append(
                    f"nanny {pid} did not pet for {silent_s:.1f} s (WatchdogSec {self.interval_s:g} s)"
                )
        return missed

    def _listen(self) -> None:
        expected_at = time.monotonic() + _LOOK_S
        while True:
            readable, _, _ = select.select([self._socket.fileno(), self._end], [], [], _LOOK_S)
            now = time.monotonic()
            with self._lock:
                if now - expected_at > _LOOK_S:
                    self._late.append((now, now - expected_at))
                expected_at = now + _LOOK_S
                if self._end in readable:
                    return
                if self._socket.fileno() in readable:
                    self._take(now)

    def _take(self, now: float) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(64)
        payload, ancillary, _, _ = self._socket.recvmsg(1 << 16, space)
        pid = 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                # The nanny leaves its listening socket with the service manager; this one keeps none.
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                for fd in fds:
                    os.close(fd)
        heard = self._heard.setdefault(pid, _Heard())
        lines = payload.decode(errors="replace").splitlines()
        if "READY=1" in lines:
            heard.ready_at = now
        if "WATCHDOG=1" in lines:
            heard.pets_at.append(now)


@contextmanager
def watchdog_watch(interval_s: float) -> Iterator[WatchdogWatch]:
    """Watch for the length of the block, at an address short enough for AF_UNIX."""
    with tempfile.TemporaryDirectory(prefix="wd-") as folder, WatchdogWatch(folder, interval_s) as watch:
        yield watch
