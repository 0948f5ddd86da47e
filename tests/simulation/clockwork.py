"""The virtual clock: instants in a heap, and nothing between them.

Time in which nothing happens costs nothing: the clock jumps from one instant to the next. What falls on the same
instant happens in the order in which it was arranged, so that a run is the same run each time. Where ever more happens
and hardly any time passes, the run would never end: it ends there.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CROWDED_S: Final = 1.0
"""Over so long it is counted how much happens."""


class LiveLock(BaseException):
    """More happens in a second than any world has to do. Not an Exception: no code under test can swallow it."""


class Clockwork:
    """What is to happen, and when; seconds since the world began.

    Attributes:
        now: the instant that the world stands at.
        events_total: how much has happened.
    """

    __slots__ = ("_crowded_until", "_happens_until", "_heap", "_limit", "_order", "events_total", "now")

    def __init__(self, limit: int = 1_000_000) -> None:
        """Nothing is arranged yet.

        Args:
            limit: how much may happen in `CROWDED_S`.
        """
        self.now = 0.0
        self._limit = self._happens_until = limit
        self._crowded_until = CROWDED_S
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
        """Let everything happen up to an instant, in order.

        Raises:
            LiveLock: time hardly passes any more.
        """
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, given = heappop(heap)
            self.events_total += 1
            if self.now >= self._crowded_until:
                self._crowded_until = self.now + CROWDED_S
                self._happens_until = self.events_total + self._limit
            elif self.events_total > self._happens_until:
                raise LiveLock(f"more than {self._limit} things happen within {CROWDED_S:g} s")
            call(*given)
        self.now = until
