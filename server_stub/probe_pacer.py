"""When which node is checked: at its own place in the interval, at once when asked, never twice at a time.

One heap of turns and one timer; turns that are close to each other are taken together. Checks under way are
bounded; a node whose turn finds no room waits in line, and its check starts late, never doubled. A check
asked for at once replaces the one under way: that one asks a life or an address that is gone. What a check
is, it doesn't know.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from server_stub.core.probe_schedule import next_probe_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.clock import Clock

STARTS_A_TURN: Final = 50
"""Checks begun before others get their turn on the event loop."""
GRAIN_S: Final = 0.05
"""Turns within so long are taken together."""
LATE_S: Final = 1.0
_NEVER: Final = float("inf")


class Cancellable(Protocol):
    """A check under way."""

    def cancel(self) -> object:
        """End it; its end is not to be told."""
        ...


class ProbePacer:
    """Begins checks: `begin(node_id)` gives the check, or None if there is nothing to check.

    Whoever runs the check says `ended`; `begin` must not raise, nor say so before it returns.
    """

    def __init__(
        self, begin: Callable[[str], Cancellable | None], clock: Clock, interval_s: float, concurrency: int
    ) -> None:
        self._late = 0
        self._begin = begin
        self._clock = clock
        self._interval_s = interval_s
        self._concurrency = concurrency
        self._grain_s = min(GRAIN_S, interval_s / 100)
        self._turns: list[tuple[float, str]] = []
        self._next_at: dict[str, float] = {}
        self._running: dict[str, Cancellable] = {}
        self._waiting: deque[tuple[float, str]] = deque()
        """Due at, node; invariant: its `_next_at` is _NEVER while it waits."""
        self._timer: asyncio.Handle | None = None
        self._armed_at = _NEVER
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """Give the number of watched nodes."""
        return len(self._next_at)

    @property
    def under_way(self) -> int:
        """Give the number of checks under way."""
        return len(self._running)

    def take_late(self) -> int:
        """Give how many checks began more than LATE_S after their turn, since this was last asked."""
        late, self._late = self._late, 0
        return late

    def watch(self, node_id: str) -> None:
        """Check this node from now on; nothing happens if it is watched already."""
        if node_id not in self._next_at:
            self._plan(node_id, next_probe_at(node_id, self._interval_s, self._clock.monotonic()))

    def unwatch(self, node_id: str) -> None:
        """Check this node no more; a check under way is cancelled."""
        self._next_at.pop(node_id, None)
        self._cancel(node_id)

    def check_now(self, node_id: str) -> None:
        """Check this node at once, and go on in its place of the interval."""
        self._cancel(node_id)
        self._plan(node_id, self._clock.monotonic())

    def check_in(self, node_id: str, delay_s: float) -> None:
        """Check this node again after a moment, if its turn isn't sooner."""
        at = self._clock.monotonic() + delay_s
        if not self._next_at.get(node_id, _NEVER) <= at:
            self._plan(node_id, at)

    def next_at(self, node_id: str) -> float | None:
        """Give the instant of its next check; None if there is none, or one is under way."""
        at = self._next_at.get(node_id)
        return None if at is None or at == _NEVER else at

    def ended(self, node_id: str) -> None:
        """The node's check has ended: its next turn comes, and there is room for who waits."""
        self._running.pop(node_id, None)
        if self._next_at.get(node_id) == _NEVER:
            self._plan(node_id, next_probe_at(node_id, self._interval_s, self._clock.monotonic()))
        if self._waiting:
            self._arm(self._clock.monotonic())

    async def run(self) -> None:
        """Check until cancelled; checks under way are cancelled, too."""
        self._loop = asyncio.get_running_loop()
        try:
            self._arm(self._clock.monotonic())
            await self._loop.create_future()
        finally:
            self._loop = None
            if self._timer is not None:
                self._timer.cancel()
            for node_id in list(self._running):
                self._cancel(node_id)

    def _cancel(self, node_id: str) -> None:
        running = self._running.pop(node_id, None)
        if running is not None:
            running.cancel()

    def _plan(self, node_id: str, at: float) -> None:
        self._next_at[node_id] = at
        heapq.heappush(self._turns, (at, node_id))
        self._arm(at)

    def _arm(self, at: float) -> None:
        """Have `_start_due` called at this instant or sooner, but not much later."""
        if self._loop is None or at >= self._armed_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = at
        delay_s = at - self._clock.monotonic()
        if delay_s <= 0:
            self._timer = self._loop.call_soon(self._start_due)
        else:
            self._timer = self._loop.call_later(delay_s + self._grain_s, self._start_due)

    def _start_due(self) -> None:
        self._timer, self._armed_at = None, _NEVER
        now = self._clock.monotonic()
        turns, waiting = self._turns, self._waiting
        while turns and turns[0][0] <= now:
            at, node_id = heapq.heappop(turns)
            if self._next_at.get(node_id) == at:  # else planned anew since
                self._next_at[node_id] = _NEVER
                waiting.append((at, node_id))
        for _ in range(STARTS_A_TURN):
            if not waiting or len(self._running) >= self._concurrency:
                break
            at, node_id = waiting.popleft()
            # Unwatched, or planned or begun anew, since it came to wait.
            if self._next_at.get(node_id) == _NEVER and node_id not in self._running:
                self._late += now - at > LATE_S
                self._start(node_id)
        if waiting and len(self._running) < self._concurrency:
            self._arm(now)
        elif turns:
            self._arm(turns[0][0])

    def _start(self, node_id: str) -> None:
        check = self._begin(node_id)
        if check is None:
            self._plan(node_id, next_probe_at(node_id, self._interval_s, self._clock.monotonic()))
        else:
            self._running[node_id] = check
