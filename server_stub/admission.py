"""Who is let in when a whole fleet dials at once: as many as are served within their patience, the others later.

A newcomer costs the loop some ten milliseconds until it is known; a thousand of them in line would all wait
until they give up, and dial again. So only a number of them may be on their way in; whoever comes on top is
told when to come back, before anything is done for him. The time is drawn from what the queue of those who
were told so takes at the pace of the last ones, so that they don't come back together. Known connections are
not touched. RFC 9110, 10.2.3 (Retry-After).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ARRIVING_LIMIT: Final = 100
"""At ten milliseconds each that is a second, a tenth of a node's patience."""
PATIENCE_S: Final = 10.0
"""Who has not arrived by then holds no place any more: whoever says nothing must not keep others out."""
FIRST_COST_S: Final = 0.01
SOONEST_S: Final = 1.0
LATEST_S: Final = 120.0
_WEIGHT: Final = 0.05


class Admission:
    """The newcomers that are on their way in, and those that were told to come back."""

    def __init__(self, limit: int = ARRIVING_LIMIT) -> None:
        self.limit = limit
        self._arriving: dict[object, float] = {}
        self._told: list[float] = []
        """When those who were sent away come back, a heap."""
        self._cost_s = FIRST_COST_S
        self._last_end_at = float("-inf")

    @property
    def arriving(self) -> int:
        """How many are on their way in."""
        return len(self._arriving)

    def enter(self, newcomer: object, now: float, chance: Callable[[], float]) -> float | None:
        """Let a newcomer in (None), or give in how many seconds to come back.

        Args:
            newcomer: anything that stands for it, until `arrived`.
            now: monotonic seconds.
            chance: draws from [0, 1).
        """
        if len(self._arriving) >= self.limit:
            self._arriving = {one: at for one, at in self._arriving.items() if at > now - PATIENCE_S}
        if len(self._arriving) < self.limit:
            self._arriving[newcomer] = now
            return None
        while self._told and self._told[0] <= now:
            heapq.heappop(self._told)
        queue_s = (len(self._told) + len(self._arriving)) * self._cost_s
        wait_s = min(SOONEST_S + 2 * queue_s * chance(), LATEST_S)
        heapq.heappush(self._told, now + wait_s)
        return wait_s

    def arrived(self, newcomer: object, now: float) -> None:
        """The newcomer is known now, or has gone; said twice, it counts once."""
        began_at = self._arriving.pop(newcomer, None)
        if began_at is None:
            return
        # While others wait, the time between two ends is what one costs.
        cost_s = now - max(began_at, self._last_end_at)
        self._last_end_at = now
        if self._arriving:
            self._cost_s += _WEIGHT * (min(max(cost_s, 0.0), 1.0) - self._cost_s)
