"""The services of the agent's event loop: each runs apart, and none takes another down.

A service that raises, or returns, is logged, counted and started again after a backoff. Whether it makes
progress is told by its progress point, and there lies the trap: a critical service that starts, reports
progress and dies, again and again, would look alive for ever. So after a failure its touches count only once
the run has outlived a probation; a service that keeps failing goes overdue, and the supervisor sees it.

Knows nothing of what services do.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from nanny.common.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agent.vitals.progress import ProgressPoint
    from agent.vitals.thread import Vitals

_BACKOFF_FIRST_S: Final = 0.2
_BACKOFF_CEILING_S: Final = 30.0
_STABLE_AFTER_S: Final = 60.0
_TRIES_A_DEADLINE: Final = 6
"""A critical service gets so many chances before it counts as stalled."""


class Progress(Protocol):
    """What a service proves its progress with."""

    def touch(self) -> None:
        """Say that progress was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One long-running part of the program."""

    name: str
    """Letters, digits and ``._-``, at most 48; also the progress point's."""
    run: Callable[[Progress], Awaitable[None]]
    """Runs until it is cancelled; to be called again after a failure."""
    deadline_s: float
    """Within which it touches its progress point."""
    critical: bool = False
    """Without it the worker is of no use: overdue, it is a stall."""


@dataclass(slots=True)
class ServiceRecord:
    """What became of a service so far."""

    service: Service
    failures_total: int = 0
    last_failure: str = ""
    runs: bool = False


class Services:
    """Runs services until told to stop."""

    def __init__(self, vitals: Vitals, services: Iterable[Service]) -> None:
        """Take `services`, whose names must be distinct."""
        self._vitals = vitals
        self.records = {service.name: ServiceRecord(service) for service in services}
        self._is_stopping = False

    async def run(self, stop: asyncio.Event, on_running: Callable[[], None]) -> None:
        """Run all of them until `stop` is set; all have ended when this returns.

        Args:
            stop: set by whoever ends the program.
            on_running: called once each service has had its first turn.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._keep_running(record), name=record.service.name)
                for record in self.records.values()
            ]
            try:
                await asyncio.sleep(0)
                on_running()
                await stop.wait()
            finally:
                # Also when this run is cancelled itself: from here on a cancellation is meant.
                self._is_stopping = True
            for task in tasks:
                task.cancel()

    async def _keep_running(self, record: ServiceRecord) -> None:
        service = record.service
        ceiling_s = min(_BACKOFF_CEILING_S, service.deadline_s / _TRIES_A_DEADLINE)
        backoff = Backoff(min(_BACKOFF_FIRST_S, ceiling_s), ceiling_s)
        log = structlog.get_logger().bind(service=service.name)
        failures = 0
        with self._vitals.progress_point(
            service.name, service.deadline_s, critical=service.critical
        ) as point:
            while True:
                began_at = time.monotonic()
                probation_s = 0.0 if failures == 0 else service.deadline_s / 2
                record.runs = True
                try:
                    await service.run(Probation(point, probation_s))
                    reason = "it returned"
                    log.error("service ended", reason=reason)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if self._is_stopping or task is None:
                        raise
                    # Somebody inside cancelled what was not theirs: a failure like any other.
                    while task.cancelling():
                        task.uncancel()
                    reason = "it was cancelled from within"
                    log.exception("service ended", reason=reason)
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}"[:512]
                    log.exception("service failed", reason=reason)
                finally:
                    record.runs = False
                failures = 1 if time.monotonic() - began_at >= _STABLE_AFTER_S else failures + 1
                record.failures_total += 1
                record.last_failure = reason
                await asyncio.sleep(backoff.next(failures, random.random()))


class Probation:
    """A progress point whose touches count only after `probation_s` of this run."""

    __slots__ = ("_counts_from", "_point")

    def __init__(self, point: ProgressPoint, probation_s: float) -> None:
        self._point = point
        self._counts_from = time.monotonic() + probation_s

    def touch(self) -> None:
        """Pass the touch on, if it counts."""
        if time.monotonic() >= self._counts_from:
            self._point.touch()


async def pause(seconds: float, progress: Progress, wake: asyncio.Event | None = None) -> bool:
    """Rest for a known time, which is progress, too; True when `wake` ended it."""
    until = asyncio.get_running_loop().time() + seconds
    step_s = 5.0
    while (left_s := until - asyncio.get_running_loop().time()) > 0:
        progress.touch()
        if wake is None:
            await asyncio.sleep(min(step_s, left_s))
            continue
        try:
            async with asyncio.timeout(min(step_s, left_s)):
                await wake.wait()
        except TimeoutError:
            continue
        return True
    return False
