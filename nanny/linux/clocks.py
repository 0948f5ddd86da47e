"""The shell's clock seam: all three clocks read in one go, so that one event carries one consistent time.

Monotonic decides liveness (it stands still in suspend, as the worker does); boottime counts a command's time
to live (it goes on in suspend); wall time is for people and never decides. Tests inject another `Clock`.

clock_gettime(2).
"""

import os
import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """The three clocks at one moment, in seconds; monotonic and boottime are comparable within a boot."""

    monotonic_s: float
    boottime_s: float
    wall_s: float


class Clock(Protocol):
    """What can tell the time."""

    def read(self) -> Reading:
        """Give the time now."""
        ...


class SystemClock:
    """The kernel's clocks."""

    def read(self) -> Reading:
        """Give the time now; the three differ by no more than the calls take, microseconds."""
        return Reading(
            monotonic_s=time.monotonic(),
            boottime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            wall_s=time.time(),
        )


class OffsetClock:
    """The kernel's clocks, put forward or back by what a file says: a test's step of the wall clock, or its suspend.

    The file holds two numbers, seconds added to wall time and to boottime; a sleeping node is one whose boottime
    runs ahead. It is read at each reading; while it can't be, or is no two numbers, the last ones hold.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._kernel = SystemClock()
        self._offsets = (0.0, 0.0)

    def read(self) -> Reading:
        """Give the time now."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                wall_s, boottime_s = map(float, os.read(fd, 100).split())
            finally:
                os.close(fd)
            self._offsets = (wall_s, boottime_s)
        except (OSError, ValueError):
            wall_s, boottime_s = self._offsets
        now = self._kernel.read()
        return Reading(now.monotonic_s, now.boottime_s + boottime_s, now.wall_s + wall_s)
