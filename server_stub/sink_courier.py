"""The way of events to a sink: read from the log behind its cursor, delivered, and only then the cursor moves on.

So an event is delivered after its commit, at least once, in order, and a sink that is dead, slow or new costs
nobody else anything: what waits for it waits in the log, not in memory. What the log no longer holds when the
sink comes back is counted and logged. Deliveries have a deadline; failures are waited out, each time longer,
spread by a hash of name and attempt. Knows no sink by name.
"""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nanny.common.backoff import Backoff
from server_stub.changes import EVENTS, TooManyWaiters
from server_stub.cloud_events import cloud_event
from server_stub.sink_errors import EventsRefused
from server_stub.store import events
from server_stub.store.events import Query
from server_stub.store.task_guard import outside_transactions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession
    from structlog.typing import FilteringBoundLogger

    from server_stub.changes import Changes
    from server_stub.metrics import Metrics
    from server_stub.sinks import Sink
    from server_stub.store.engine import Database
    from server_stub.store.events import LoggedEvent

BATCH: Final = 100
DEADLINE_S: Final = 10.0
"""Of one delivery."""
BACKOFF: Final = Backoff(base_s=1.0, ceiling_s=60.0)
REFUSALS_LIMIT: Final = 3
"""So often a single event is offered before it is dropped."""
LOOK_S: Final = 15.0
"""The log is read at least so often: another process may have written to it."""
PASSED_OVER_LIMIT: Final = 1000
"""A cursor that moves over events which the sink doesn't want is written after so many, not for each."""


class SinkCourier:
    """Brings events to one sink until cancelled."""

    def __init__(
        self,
        sink: Sink,
        *,
        database: Database,
        changes: Changes,
        log: FilteringBoundLogger,
        metrics: Metrics,
        deadline_s: float = DEADLINE_S,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._sink = sink
        self._database = database
        self._changes = changes
        self._log = log.bind(sink=sink.name)
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._backoff = backoff
        self._cursor = 0
        self._stored_cursor = 0
        self._batch = BATCH
        self._failures = 0
        self._refusals = 0
        """Of the one event that is next: a receiver that is only away refuses nothing."""

    async def begin(self) -> None:
        """Read how far the sink has come; a new one begins behind what there is now."""

        async def change(session: AsyncSession) -> int:
            return await events.sink_cursor(session, self._sink.name)

        self._cursor = self._stored_cursor = await self._database.write(change, "sinks")

    async def run(self) -> None:
        """Deliver what there is and what comes, until cancelled."""
        try:
            while True:
                await self._persistently(self._deliver_next)
        finally:
            await self._sink.close()

    async def _deliver_next(self) -> None:
        """Deliver one batch, or wait for the log to grow.

        Raises:
            Exception: nothing is taken; the cursor stands where it was.
        """
        revision = self._changes.revision(EVENTS)
        async with self._database.reading() as session:
            there = await events.kept(session)
            found = await events.read(session, Query(after=self._cursor, limit=self._batch))
        self._note_gap(there)
        self._metrics.set("sink_events_behind", max(0, there.newest - self._cursor), sink=self._sink.name)
        if not found:
            await self._wait_for_news(revision)
            return
        wanted = [event for event in found if self._sink.wants(event.type)]
        if wanted:
            try:
                await self._deliver(wanted)
            except EventsRefused as refusal:
                if len(wanted) > 1:
                    self._batch = max(1, min(self._batch, len(found)) // 2)
                    return
                self._refusals += 1
                if self._refusals < REFUSALS_LIMIT:
                    raise
                self._metrics.count("sink_events_total", outcome="refused", sink=self._sink.name)
                self._log.error("event refused by the sink, dropped", seq=wanted[0].seq, why=str(refusal))
        await self._move_cursor(found[-1].seq, must_store=bool(wanted))
        self._batch = min(BATCH, self._batch * 2)
        self._refusals = 0

    def _note_gap(self, there: events.Kept) -> None:
        missed = there.misses(self._cursor)
        if missed:
            self._metrics.count("sink_events_missed_total", missed, sink=self._sink.name)
            self._log.error("events dropped from the log before the sink took them", missed=missed)
            self._cursor = there.oldest - 1

    async def _wait_for_news(self, revision: int) -> None:
        if not self._changes.is_closed:
            with suppress(TooManyWaiters):
                await self._changes.wait_beyond(EVENTS, revision, LOOK_S)
                return
        await asyncio.sleep(LOOK_S)

    async def _deliver(self, wanted: list[LoggedEvent]) -> None:
        outside_transactions("a delivery to a sink")
        async with asyncio.timeout(self._deadline_s):
            await self._sink.deliver([cloud_event(event) for event in wanted])
        self._metrics.count("sink_events_total", len(wanted), outcome="delivered", sink=self._sink.name)

    async def _move_cursor(self, seq: int, *, must_store: bool) -> None:
        self._cursor = seq
        if not must_store and seq < self._stored_cursor + PASSED_OVER_LIMIT:
            return

        async def change(session: AsyncSession) -> None:
            await events.move_sink_cursor(session, self._sink.name, seq)

        await self._database.write(change, "sinks")
        self._stored_cursor = seq

    async def _persistently(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do one step; if it fails, wait. Whether it is tried again is the caller's loop."""
        try:
            await step()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise  # it is we who are cancelled, and not something inside the sink
            self._failures += 1
            self._metrics.count("sink_failures_total", sink=self._sink.name)
            unit = zlib.crc32(f"{self._sink.name}:{self._failures}".encode()) / 2**32
            wait_s = self._backoff.next(self._failures, unit, getattr(error, "retry_after_s", None))
            self._log.warning(
                "sink has not taken events",
                failures=self._failures,
                why=f"{type(error).__name__}: {error}"[:300],
                again_in_s=round(wait_s, 1),
            )
            await asyncio.sleep(wait_s)
        else:
            if self._failures:
                self._log.info("sink takes events again", after_failures=self._failures)
            self._failures = 0
