"""The shell's clock seam: all three clocks read in one go, so that one event carries one consistent time.

Monotonic decides liveness (it stands still in suspend, as the worker does); boottime counts a command's time
to live (it goes on in suspend); wall time is for people and never decides. Tests inject another `Clock`.

clock_gettime(2).
"""

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
