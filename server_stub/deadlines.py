"""Deadlines of thousands of things that nearly always end in time: one timer of the event loop for all.

A heap with lazy deletion: setting costs a push, calling off costs nothing, and the loop's timer is moved only
for a sooner first deadline. Callbacks run late by GRAIN_S at most, never early. They must not raise.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

GRAIN_S: Final = 0.005


class Deadline:
    """One instant and what is to happen then."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def call_off(self) -> None:
        """Nothing is to happen; may be said again and again."""
        self.call = None


class Deadlines:
    """All of them, on one loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = float("inf")

    def after(self, delay_s: float, call: Callable[[], None]) -> Deadline:
        """Have `call` called once, after so many seconds."""
        at = self._loop.time() + delay_s
        deadline = Deadline(call)
        heapq.heappush(self._heap, (at, next(self._order), deadline))
        if at < self._armed_at:
            self._arm(at)
        return deadline

    def close(self) -> None:
        """Call nothing any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = at
        self._timer = self._loop.call_at(at + GRAIN_S, self._run_due)

    def _run_due(self) -> None:
        self._timer, self._armed_at = None, float("inf")
        now = self._loop.time()
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2].call is None):
            call = heapq.heappop(heap)[2].call
            if call is not None:
                call()
        if heap and heap[0][0] < self._armed_at:
            self._arm(heap[0][0])
