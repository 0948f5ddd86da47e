"""The log's old end is dropped: what is older than `events_kept_s`, and the oldest of more than `events_limit`.

A slow loop, in batches of a transaction each with pauses between, so that nobody waits long for the database.
Sinks are not waited for: one that comes back too late counts what it missed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from server_stub.store import events

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from server_stub.clock import Clock
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

INTERVAL_S: Final = 60.0
BATCH: Final = 500
PAUSE_S: Final = 0.1


class EventRetention:
    """Keeps the log within its bounds until cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        kept_s: float,
        limit: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._kept_s = kept_s
        self._limit = limit

    async def run(self) -> None:
        """Look once in `INTERVAL_S`."""
        while True:
            try:
                await self.drop()
            except Exception:
                self._metrics.count("event_retention_failures_total")
                self._log.exception("old events could not be dropped")
            await asyncio.sleep(INTERVAL_S)

    async def drop(self) -> int:
        """Drop what is to go now; give how many."""
        async with self._database.reading() as session:
            keep_from = await events.first_to_keep(session, self._clock.wall() - self._kept_s, self._limit)
        dropped = 0
        while keep_from is not None:
            async with self._database.writing("events") as session:
                number = await events.drop_before(session, keep_from, BATCH)
            dropped += number
            self._metrics.count("events_dropped_total", number)
            if number < BATCH:
                break
            await asyncio.sleep(PAUSE_S)
        return dropped
