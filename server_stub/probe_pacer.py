"""When which node is checked: at its own place in the interval, at once when asked, never twice at a time.

One heap of turns, a bound on checks under way, one task for each. A check asked for at once replaces the
one under way: that one asks a life or an address that is gone. What a check is, it doesn't know.
"""

from __future__ import annotations

import asyncio
import heapq
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from server_stub.core.probe_schedule import next_probe_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server_stub.clock import Clock


class ProbePacer:
    """Calls `check(node_id)` for each watched node; `check` must not raise."""

    def __init__(
        self, check: Callable[[str], Awaitable[None]], clock: Clock, interval_s: float, concurrency: int
    ) -> None:
        self._check = check
        self._clock = clock
        self._interval_s = interval_s
        self._places = asyncio.Semaphore(concurrency)
        self._turns: list[tuple[float, str]] = []
        self._next_at: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()

    def watch(self, node_id: str) -> None:
        """Check this node from now on; nothing happens if it is watched already."""
        if node_id not in self._next_at:
            self._plan(node_id, next_probe_at(node_id, self._interval_s, self._clock.monotonic()))

    def check_now(self, node_id: str) -> None:
        """Check this node at once, and go on in its place of the interval."""
        running = self._running.get(node_id)
        if running is not None:
            running.cancel()
        self._plan(node_id, self._clock.monotonic())

    def check_in(self, node_id: str, delay_s: float) -> None:
        """Check this node again after a moment, if its turn isn't sooner."""
        at = self._clock.monotonic() + delay_s
        if not self._next_at.get(node_id, float("inf")) <= at:
            self._plan(node_id, at)

    async def run(self) -> None:
        """Check until cancelled; checks under way are cancelled, too, and waited for."""
        try:
            while True:
                self._start_due()
                self._woken.clear()
                timeout_s = self._turns[0][0] - self._clock.monotonic() if self._turns else None
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if timeout_s is None else max(0.0, timeout_s)):
                        await self._woken.wait()
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _plan(self, node_id: str, at: float) -> None:
        self._next_at[node_id] = at
        heapq.heappush(self._turns, (at, node_id))
        self._woken.set()

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        while self._turns and self._turns[0][0] <= now:
            at, node_id = heapq.heappop(self._turns)
            if self._next_at.get(node_id) != at:
                continue  # planned anew since
            task = asyncio.create_task(self._one(node_id), name=f"probe {node_id}")
            self._running[node_id] = task
            task.add_done_callback(partial(self._ended, node_id))
            self._next_at[node_id] = float("inf")

    async def _one(self, node_id: str) -> None:
        async with self._places:
            await self._check(node_id)

    def _ended(self, node_id: str, task: asyncio.Task[None]) -> None:
        if self._running.get(node_id) is task:
            del self._running[node_id]
        if self._next_at[node_id] == float("inf"):
            self._plan(node_id, next_probe_at(node_id, self._interval_s, self._clock.monotonic()))
