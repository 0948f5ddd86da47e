"""One wait, one deadline: the selector loop on which the nanny's whole shell runs.

A turn waits for a descriptor or the earliest deadline, drains every descriptor that is ready, and only then lets
deadlines fall due, so that a beat that has arrived is never judged as missing. It notices by itself when it was
late (the node is starved) and when the node was away (suspend: CLOCK_BOOTTIME runs ahead of CLOCK_MONOTONIC).

A callback that raises ends nothing: it is told to `on_error`, and what it served rests for a second, so that
neither a broken descriptor nor a broken deadline makes the loop spin. Knows nothing of workers. epoll(7),
clock_gettime(2).
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
REST_S: Final = 1.0
"""How long a descriptor or a deadline is left alone after its callback has raised."""


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
        latest_s: how late the latest deadline was served, in seconds; a turn that took long before it counts.
        turns_total: waits made.
        errors_total: callbacks that raised.
        on_error: told of each of them, with what was being done; must not raise.
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
        self._resting_sources: dict[int, float] = {}
        self._resting_fds: dict[int, tuple[float, int, Callable[[], None]]] = {}
        self.on_error: Callable[[str, Exception], None] = lambda _what, _error: None
        self.errors_total = 0
        reading = clock.read()
        self._boottime_ahead_s = reading.boottime_s - reading.monotonic_s
        self.now = reading.monotonic_s
        self.latest_s = 0.0
        self.turns_total = 0

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable."""
        self._resting_fds.pop(fd, None)
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def watch_writable(self, fd: int, callback: Callable[[], None], *, wanted: bool) -> None:
        """Call back also while the descriptor can be written; the callback is the one that is being watched."""
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if wanted else selectors.EVENT_READ
        if fd in self._resting_fds:
            self._resting_fds[fd] = (self._resting_fds[fd][0], events, callback)
        else:
            self._selector.modify(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """No longer; a descriptor that is not watched is passed over."""
        self._resting_fds.pop(fd, None)
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return

    def rest(self, fd: int) -> None:
        """Leave a watched descriptor alone for a second: it stays ready, and nothing can be done about it now."""
        key = self._selector.get_map().get(fd)
        if key is not None:
            self._selector.unregister(fd)
            self._resting_fds[fd] = (self.now + REST_S, key.events, key.data)

    def add_source(self, source: DeadlineSource) -> None:
        """Serve these deadlines, after those that were added before."""
        self._sources.append(source)

    def turn(self) -> None:
        """Wait once, drain, then serve what is due."""
        before = self._read()
        self._wake_rested()
        earliest = min(self._deadlines(), default=before + _IDLE_WAIT_S)
        ready = self._selector.select(max(0.0, min(earliest - before, _IDLE_WAIT_S)))
        self.turns_total += 1
        self._read()
        if self.now >= earliest:
            self.latest_s = self.now - earliest
            if self.now - earliest > self._late_after_s:
                self._guarded("late timer", lambda: self._on_late(self.now - earliest))
        self._drain(ready or self._selector.select(0))
        for source in self._sources:
            deadline = self._deadline_of(source)
            if deadline is not None and deadline <= self.now:
                due_at = max(deadline, self.now)
                if not self._guarded("deadline", lambda: source.on_due(due_at)):  # noqa: B023  # called at once
                    self._resting_sources[id(source)] = self.now + REST_S

    def _drain(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Call back until nothing more is ready, or often enough; the clock is read last.

        A nanny that was stopped (SIGSTOP, no processor) in here was late, too: what came meanwhile is served first.
        """
        for _ in range(_DRAIN_ROUNDS):
            for key, _events in ready:
                # An earlier callback of this round may have closed and unwatched it.
                if self._selector.get_map().get(key.fd) is key and not self._guarded("descriptor", key.data):
                    self.rest(key.fd)
            ready = self._selector.select(0)
            began = self.now
            took_s = self._read() - began
            if took_s > self._late_after_s:
                self._guarded("late turn", lambda: self._on_late(took_s))  # noqa: B023  # called at once
            if not ready:
                return

    def _deadlines(self) -> list[float]:
        found = [at for source in self._sources if (at := self._deadline_of(source)) is not None]
        found += [until for until, _, _ in self._resting_fds.values()]
        return found

    def _deadline_of(self, source: DeadlineSource) -> float | None:
        until = self._resting_sources.get(id(source))
        if until is not None and self.now < until:
            return until
        try:
            return source.next_deadline()
        except Exception as error:
            self._tell(error, "next deadline")
            self._resting_sources[id(source)] = self.now + REST_S
            return self.now + REST_S

    def _wake_rested(self) -> None:
        for fd, (until, events, callback) in list(self._resting_fds.items()):
            if until <= self.now:
                del self._resting_fds[fd]
                self._guarded("rested descriptor", lambda: self._again(fd, events, callback))  # noqa: B023

    def _again(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        self._selector.register(fd, events, callback)

    def _guarded(self, what: str, run: Callable[[], None]) -> bool:
        try:
            run()
        except Exception as error:
            self._tell(error, what)
            return False
        return True

    def _tell(self, error: Exception, what: str) -> None:
        self.errors_total += 1
        self.on_error(what, error)

    def _read(self) -> float:
        reading = self._clock.read()
        self.now = max(self.now, reading.monotonic_s)
        ahead_s = reading.boottime_s - reading.monotonic_s
        away_s = ahead_s - self._boottime_ahead_s
        self._boottime_ahead_s = ahead_s
        if away_s > _SUSPEND_S:
            self._guarded("suspend", lambda: self._on_away(away_s))
        return self.now

    def close(self) -> None:
        """Forget everything that is watched; the descriptors stay open."""
        self._selector.close()
