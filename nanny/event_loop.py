"""One wait, one deadline: the selector loop on which the nanny's whole shell runs.

A turn waits for a descriptor or the earliest deadline, drains every descriptor that is ready, and only then lets
deadlines fall due, so that a beat that has arrived is never judged as missing. It notices by itself when it was
late (the node is starved) and when the node was away (suspend: CLOCK_BOOTTIME runs ahead of CLOCK_MONOTONIC).
Knows nothing of workers. epoll(7), clock_gettime(2).
"""

from __future__ import annotations

import selectors
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.linux.clocks import Clock

_DRAIN_ROUNDS: Final = 8
_IDLE_WAIT_S: Final = 30.0
_SUSPEND_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DeadlineSource:
    """Something with a deadline of its own, asked anew in each turn."""

    next_deadline: Callable[[], float | None]
    """Monotonic seconds, or None."""
    on_due: Callable[[float], None]
    """Called with now, which is never before the deadline."""


class EventLoop:
    """Descriptors and deadlines in, callbacks out.

    Attributes:
        latest_s: how late the latest deadline was served, in seconds.
        turns_total: waits made.
    """

    def __init__(
        self,
        clock: Clock,
        late_after_s: float,
        on_late: Callable[[float], None],
        on_away: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._late_after_s = late_after_s
        self._on_late = on_late
        self._on_away = on_away
        self._selector = selectors.DefaultSelector()
        self._sources: list[DeadlineSource] = []
        reading = clock.read()
        self._boottime_ahead_s = reading.boottime_s - reading.monotonic_s
        self.now = reading.monotonic_s
        self.latest_s = 0.0
        self.turns_total = 0

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def watch_writable(self, fd: int, callback: Callable[[], None], *, wanted: bool) -> None:
        """Call back also while the descriptor can be written; the callback is the one that is being watched."""
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if wanted else selectors.EVENT_READ
        self._selector.modify(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """No longer; a descriptor that is not watched is passed over."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return

    def add_source(self, source: DeadlineSource) -> None:
        """Serve these deadlines, after those that were added before."""
        self._sources.append(source)

    def turn(self) -> None:
        """Wait once, drain, then serve what is due."""
        before = self._read()
        deadlines = [deadline for source in self._sources if (deadline := source.next_deadline()) is not None]
        earliest = min(deadlines, default=before + _IDLE_WAIT_S)
        ready = self._selector.select(max(0.0, min(earliest - before, _IDLE_WAIT_S)))
        self.turns_total += 1
        self._read()
        if self.now >= earliest:
            self.latest_s = self.now - max(earliest, before)
            if self.now - earliest > self._late_after_s:
                self._on_late(self.now - earliest)
        for _ in range(_DRAIN_ROUNDS):
            for key, _events in ready:
                # An earlier callback of this round may have closed and unwatched it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            if not ready:
                break
            ready = self._selector.select(0)
        self._read()
        for source in self._sources:
            deadline = source.next_deadline()
            if deadline is not None and deadline <= self.now:
                source.on_due(max(deadline, self.now))

    def _read(self) -> float:
        reading = self._clock.read()
        self.now = max(self.now, reading.monotonic_s)
        ahead_s = reading.boottime_s - reading.monotonic_s
        away_s = ahead_s - self._boottime_ahead_s
        self._boottime_ahead_s = ahead_s
        if away_s > _SUSPEND_S:
            self._on_away(away_s)
        return self.now

    def close(self) -> None:
        """Forget everything that is watched; the descriptors stay open."""
        self._selector.close()
