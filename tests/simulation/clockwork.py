"""The virtual clock: instants in a heap, and nothing between them.

Time in which nothing happens costs nothing: the clock jumps from one instant to the next. What falls on the same
instant happens in the order in which it was arranged, so that a run is the same run each time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Clockwork:
    """What is to happen, and when; seconds since the world began.

    Attributes:
        now: the instant that the world stands at.
        events_total: how much has happened.
    """

    __slots__ = ("_heap", "_order", "events_total", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events_total = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, call: Callable[..., None], *given: Any) -> None:
        """Let something happen at an instant; at once if that has passed."""
        self._order += 1
        heappush(self._heap, (max(when, self.now), self._order, call, given))

    def after(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        """Let something happen so much later."""
        self.at(self.now + seconds, call, *given)

    def run(self, until: float) -> None:
        """Let everything happen up to an instant, in order."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, given = heappop(heap)
            self.events_total += 1
            call(*given)
        self.now = until
