"""Last-seen times on their way to the database: collected where they arise, written all together.

`Arrivals` has the instants already, so nothing is noted twice: a *flush* compares them with those of the last
flush that succeeded, and writes what is newer, converted to the wall clock by their ages. The comparison's
base moves only after the commit: what a failed flush held, and what arrives while one is under way, is in the
next. Each flush is one statement for the whole fleet, an interval apart, and none if nobody was heard of. So
a probe that changes nothing costs no write of its own, and what a quiet round writes of states stays nothing;
the price of last-seen times is one statement per `sightings_interval_s`, whatever the fleet's size, and a
killed server loses one interval of them at most. No decision is made from them: they tell people when a node
was last there, also across restarts of the server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from server_stub.store import sightings as store
from server_stub.store.faults import DatabaseUnavailable
from server_stub.store.sightings import Sighting

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import Arrivals, ArrivalsByNode
    from server_stub.clock import Clock
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database

SLICE: Final = 500
"""Nodes compared before others get their turn on the event loop."""
LAST_FLUSH_TIMEOUT_S: Final = 3.0
"""At shutdown; a database that does not answer must not hold the server up."""

_Instants = tuple[float | None, float | None, float | None]
_NEVER: Final[_Instants] = (None, None, None)


class Sightings:
    """What was seen of the fleet and is not yet written. As a context manager it ends with a last flush."""

    def __init__(
        self,
        *,
        database: Database,
        arrivals: ArrivalsByNode,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        interval_s: float,
    ) -> None:
        self._database = database
        self._arrivals = arrivals
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._interval_s = interval_s
        self._written: dict[str, _Instants] = {}
        """As of the last flush that was committed."""
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Flush once an interval until cancelled; a failure is logged and counted, its times come again."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self._flush_or_log()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(LAST_FLUSH_TIMEOUT_S):
                await self._flush_or_log()
        except TimeoutError:
            self._log.warning("last sightings not written", why=f"no end after {LAST_FLUSH_TIMEOUT_S:g} s")

    async def flush(self) -> int:
        """Write what is newer than at the last flush; give for how many nodes.

        Raises:
            DatabaseUnavailable: it does not answer; nothing is lost, the next flush has it all.
        """
        async with self._turn:
            now_seen, new = await self._compare()
            if new:
                async with self._database.writing("sightings") as session:
                    await store.store(session, new)
            self._written = now_seen
            return len(new)

    async def _compare(self) -> tuple[dict[str, _Instants], list[Sighting]]:
        now, wall_now = self._clock.monotonic(), self._clock.wall()
        now_seen: dict[str, _Instants] = {}
        new: list[Sighting] = []
        for position, (node_id, arrivals) in enumerate(self._arrivals.all()):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            instants = now_seen[node_id] = _instants(arrivals)
            before = self._written.get(node_id, _NEVER)
            if instants != before:
                # Only what moved: a time once converted is not converted again by another wall clock.
                probe, worker, link = (
                    None if at is None or at == then else wall_now - (now - at)
                    for at, then in zip(instants, before, strict=True)
                )
                new.append(Sighting(node_id, probe, worker, link))
        return now_seen, new

    async def _flush_or_log(self) -> None:
        try:
            number = await self.flush()
        except DatabaseUnavailable as error:
            self._metrics.count("sighting_failures_total")
            self._log.error("sightings not written", why=str(error))
        except Exception:
            self._metrics.count("sighting_failures_total")
            self._log.exception("sightings not written")
        else:
            self._metrics.count("sightings_written_total", number)


def _instants(arrivals: Arrivals) -> _Instants:
    worker, link = arrivals.worker, arrivals.link
    return (
        arrivals.answered_at,
        None if worker is None else worker.heard_at,
        None if link is None else link.heard_at,
    )
