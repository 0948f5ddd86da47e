"""Breaks the agent on purpose, for demonstrations and fault tests: orders by a local datagram socket.

Off unless the settings say otherwise, and then only while the health endpoints listen on loopback. One order a
datagram, ``NAME [NUMBER]``; each does in the event loop what real faults do there. Bounded: no order holds
longer than an hour or more than a gibibyte. unix(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.vitals.thread import Vitals

_LONGEST_S: Final = 3600.0
_LARGEST_MIB: Final = 1024.0
_BEAT_TIME_S: Final = 0.3
_ORDER_LIMIT_BYTES: Final = 256


class FaultInjection:
    """Obeys orders until closed."""

    def __init__(self, path: str, vitals: Vitals) -> None:
        """Listen at `path`, for this user alone; a socket that a predecessor left there is replaced.

        Raises:
            OSError: it cannot be bound.
        """
        self._vitals = vitals
        self._path = path
        self._leaked: list[bytearray] = []
        self._log = structlog.get_logger()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        with suppress(FileNotFoundError):
            Path(path).unlink()
        mask = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(mask)
        self._orders: dict[str, Callable[[float], None]] = {
            "block": self._block,
            "spin": self._spin,
            "gil": self._hold_gil,
            "executor": self._fill_executor,
            "exit": self._exit,
            "stopping-exit-0": self._stopping_exit_0,
            "leak": self._leak,
            "ignore-term": self._ignore_term,
        }
        asyncio.get_running_loop().add_reader(self._socket, self._obey)
        self._log.warning("faults can be injected", socket=path)

    def close(self) -> None:
        """Obey no more, and remove the socket."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        with suppress(OSError):
            Path(self._path).unlink()

    def _obey(self) -> None:
        try:
            order = self._socket.recv(_ORDER_LIMIT_BYTES).decode("ascii", "replace").split()
        except OSError:
            return
        try:
            number = float(order[1]) if len(order) > 1 else 10.0
            fault = self._orders[order[0]]
            if not 0 <= number <= _LONGEST_S:
                raise ValueError(number)
        except (LookupError, ValueError):
            self._log.warning("no such fault", order=order[:2])
            return
        self._log.warning("breaking on purpose", order=order)
        fault(number)

    def _block(self, seconds: float) -> None:
        time.sleep(seconds)

    def _spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def _hold_gil(self, seconds: float) -> None:
        # PyDLL keeps the GIL through the call, as badly written extensions do.
        ctypes.PyDLL(None).sleep(int(seconds))

    def _fill_executor(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(64):
            loop.run_in_executor(None, time.sleep, seconds)

    def _exit(self, status: float) -> None:
        os._exit(int(status) & 0xFF)

    def _stopping_exit_0(self, _: float) -> None:
        self._vitals.stopping()
        asyncio.get_running_loop().call_later(_BEAT_TIME_S, os._exit, 0)

    def _leak(self, mebibytes: float) -> None:
        size = int(min(mebibytes, _LARGEST_MIB)) << 20
        leaked = bytearray(size)
        for offset in range(0, size, 4096):  # touched, or it is no memory
            leaked[offset] = 1
        self._leaked.append(leaked)

    def _ignore_term(self, _: float) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
