"""The two clocks of the server, injected everywhere so that tests say what time it is.

Decisions use `monotonic`; `wall` is for what people read and for what must outlive the server's process.
clock_gettime(2).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the server takes its time from."""

    def monotonic(self) -> float:
        """Give seconds that never jump, from an arbitrary start."""
        ...

    def wall(self) -> float:
        """Give seconds since 1970, as this machine believes."""
        ...


class SystemClock:
    """The kernel's clocks."""

    def monotonic(self) -> float:
        """Give CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Give CLOCK_REALTIME in seconds."""
        return time.time()


def iso(wall_at: float) -> str:
    """Give an instant as people and RFC 3339 write it, in UTC, to the second."""
    return datetime.fromtimestamp(wall_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
