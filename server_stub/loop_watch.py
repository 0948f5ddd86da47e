"""How late the server's own event loop is: a tick that says by how much it missed its time.

A server that is late judges nobody fairly, so its lag is a metric and, when grave, a line in the log. Watches
only the loop that it runs on, and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from server_stub.metrics import Metrics

TICK_S: Final = 0.05
TOLD_EVERY: Final = 100
"""Ticks; the metric is the worst of them."""
KEPT: Final = 1200
"""Ticks: the last minute."""
GRAVE_S: Final = 1.0


class LoopWatch:
    """Measures the loop that `run` runs on."""

    def __init__(
        self,
        metrics: Metrics,
        log: FilteringBoundLogger,
        on_late: Callable[[float], None] = lambda _lag_s: None,
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._on_late = on_late
        """Told of each grave lag, in seconds, before what became due meanwhile is done."""
        self._lags: deque[float] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        worst_s, ticks = 0.0, 0
        while True:
            due_at = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            lag_s = max(0.0, loop.time() - due_at)
            self._lags.append(lag_s)
            worst_s, ticks = max(worst_s, lag_s), ticks + 1
            if lag_s >= GRAVE_S:
                self._on_late(lag_s)
                self._log.warning("the event loop was late", lag_s=round(lag_s, 3))
            if ticks >= TOLD_EVERY:
                self._metrics.set("loop_lag_seconds", worst_s)
                worst_s, ticks = 0.0, 0

    def quantile(self, share: float) -> float:
        """Give the lag in seconds that this share of the last minute's ticks stayed within; 0 before the first."""
        lags = sorted(self._lags)
        return lags[min(len(lags) - 1, int(share * len(lags)))] if lags else 0.0
