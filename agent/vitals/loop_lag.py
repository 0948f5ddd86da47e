"""How an event loop proves that it turns: a tick of its own timer writes a stamp that another thread reads.

Works with any loop that has `call_soon_threadsafe` and `call_later` (asyncio, uvloop) and imports none. The
stamp is one float, written by the loop alone. A loop that ended without `detach` counts as one that stands
still: so it does.
"""

from __future__ import annotations

import time
from threading import get_ident
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_INTERVAL_S = 0.2


class Timer(Protocol):
    """What `call_later` gives."""

    def cancel(self) -> None:
        """Let it not happen."""


class EventLoop(Protocol):
    """The part of an event loop that a tick needs."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call once after `delay` seconds."""

    def call_soon_threadsafe(self, callback: Callable[[], None], /) -> object:
        """Call once, from any thread."""


class LoopTick:
    """The stamp and the timer that renews it.

    Attributes:
        due_at: when the next stamp is due, CLOCK_MONOTONIC seconds; None before the first and after `detach`.
        thread_id: of the loop's thread, once it has turned.
        worst_lag_s: the longest by which a tick was late; whoever reads it may set it back to 0.
    """

    def __init__(self, interval_s: float = TICK_INTERVAL_S) -> None:
        """Tick each `interval_s` seconds, once attached."""
        self._interval_s = interval_s
        self._loop: EventLoop | None = None
        self._timer: Timer | None = None
        self.due_at: float | None = None
        self.thread_id: int | None = None
        self.worst_lag_s = 0.0

    def attach(self, loop: EventLoop) -> None:
        """Watch `loop` from now on, from any thread; its thread is known from its first turn on."""
        self._loop = loop
        self.due_at = time.monotonic() + self._interval_s
        loop.call_soon_threadsafe(self._tick_of(loop))

    def detach(self) -> None:
        """Watch no loop; call it in the loop's thread, before the loop ends on purpose."""
        self._loop = None
        self.due_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lag_s(self, now: float, since: float = 0.0) -> float | None:
        """How long the stamp is overdue, counted from `since` at the earliest; None where no loop is watched."""
        due_at = self.due_at
        return None if due_at is None else max(0.0, now - max(due_at, since))

    def _tick_of(self, loop: EventLoop) -> Callable[[], None]:
        def tick() -> None:
            if self._loop is not loop:
                return
            self.thread_id = get_ident()
            now, due_at = time.monotonic(), self.due_at
            if due_at is not None and now - due_at > self.worst_lag_s:
                self.worst_lag_s = now - due_at
            self.due_at = now + self._interval_s
            self._timer = loop.call_later(self._interval_s, tick)

        return tick
