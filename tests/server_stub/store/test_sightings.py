"""Last-seen times: in batches, with their arrival times, and none lost by a flush that fails."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from nanny.protocol.messages import Role
from server_stub.arrivals import ArrivalsByNode
from server_stub.core.node_facts import ProbeClass, ProbeFact
from server_stub.log import configure
from server_stub.metrics import Metrics
from server_stub.sightings import Sightings
from server_stub.store import nodes
from server_stub.store import sightings as store
from server_stub.store.engine import Database
from server_stub.store.faults import DatabaseUnavailable
from server_stub.store.sightings import Sighting
from tests.support.server_peers import hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession

NODES = ("a", "b", "c")
WALL = 1_790_000_000.0


class HandClock:
    def __init__(self) -> None:
        self.now = 5000.0
        self.wall_offset = WALL

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.wall_offset


class Failing(Database):
    """A database that fails its writers while it is told to, before or after their work."""

    fails: str | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def writing(self, *arguments: Any, **named: Any) -> AsyncIterator[AsyncSession]:
        self.asked.set()
        if self.fails == "before":
            raise DatabaseUnavailable("as the test says")
        async with super().writing(*arguments, **named) as session:
            yield session
            if self.fails == "after":
                raise DatabaseUnavailable("as the test says")


class Bench:
    def __init__(self, database: Failing) -> None:
        self.database = database
        self.clock = HandClock()
        self.arrivals = ArrivalsByNode(self.clock.now)
        self.metrics = Metrics()
        self.sightings = Sightings(
            database=database,
            arrivals=self.arrivals,
            clock=self.clock,
            log=configure("critical"),
            metrics=self.metrics,
            interval_s=0.01,
        )

    def answered(self, node_id: str, result: ProbeClass = ProbeClass.OK) -> None:
        self.arrivals.of(node_id).probed(ProbeFact(result, self.clock.now, self.clock.now))

    async def stored(self) -> dict[str, Sighting]:
        async with self.database.reading() as session:
            return await store.read(session)


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    database = await Failing.open(database_url)
    async with database.writing() as session:
        for node_id in NODES:
            await nodes.meet(session, hello(Role.LINK, node_id), is_link=True, wall_at=1.0)
    yield Bench(database)
    await database.close()


async def test_times_are_those_of_the_arrival_and_not_of_the_flush(bench: Bench) -> None:
    bench.answered("a")
    bench.clock.now += 1
    bench.arrivals.of("a").opened(Role.LINK, bench.clock.now)
    bench.clock.now += 1
    bench.arrivals.of("a").opened(Role.WORKER, bench.clock.now)
    bench.clock.now += 60

    assert await bench.sightings.flush() == 1

    at = WALL + 5000.0
    assert await bench.stored() == {"a": Sighting("a", at, at + 2, at + 1)}
    assert (await bench.stored())["a"].last_wall_at == at + 2


async def test_a_flush_is_one_statement_for_all_nodes_and_none_if_nothing_is_new(bench: Bench) -> None:
    statements: list[str] = []
    event.listen(
        bench.database.engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_rest: statements.append(statement.split()[0]),
    )
    for node_id in NODES:
        bench.answered(node_id)

    assert await bench.sightings.flush() == 3
    assert statements.count("INSERT") == 1
    statements.clear()

    assert await bench.sightings.flush() == 0
    assert statements == []


async def test_an_answer_counts_though_the_next_check_failed(bench: Bench) -> None:
    bench.answered("a")
    bench.clock.now += 15
    bench.answered("a", ProbeClass.TIMEOUT)

    await bench.sightings.flush()

    assert (await bench.stored())["a"].probe_wall_at == WALL + 5000.0


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_failed_flush_loses_nothing_and_keeps_the_arrival_times(bench: Bench, fails: str) -> None:
    bench.answered("a")
    bench.database.fails = fails
    with pytest.raises(DatabaseUnavailable):
        await bench.sightings.flush()
    bench.clock.now += 30
    bench.answered("b")
    bench.database.fails = None

    assert await bench.sightings.flush() == 2

    seen = await bench.stored()
    assert (seen["a"].probe_wall_at, seen["b"].probe_wall_at) == (WALL + 5000.0, WALL + 5030.0)


async def test_what_arrives_during_a_flush_is_in_the_next(bench: Bench) -> None:
    bench.answered("a")
    async with asyncio.TaskGroup() as tasks, bench.database.writing():
        bench.database.asked.clear()
        flush = tasks.create_task(bench.sightings.flush())
        await bench.database.asked.wait()  # it has compared, and waits for its turn to write
        bench.clock.now += 5
        bench.answered("a")
    assert flush.result() == 1

    assert await bench.sightings.flush() == 1
    assert (await bench.stored())["a"].probe_wall_at == WALL + 5005.0


async def test_an_older_time_overwrites_no_newer_one(bench: Bench) -> None:
    newer = Sighting("a", 300.0, None, 100.0)
    for sighting in (newer, Sighting("a", 200.0, 50.0, None), Sighting("a", None, 40.0, 101.0)):
        async with bench.database.writing() as session:
            await store.store(session, [sighting])

    assert await bench.stored() == {"a": Sighting("a", 300.0, 50.0, 101.0)}


async def test_a_wall_clock_that_jumps_changes_no_time_already_told(bench: Bench) -> None:
    bench.answered("a")
    await bench.sightings.flush()
    bench.clock.wall_offset += 86400.0
    bench.arrivals.of("a").opened(Role.LINK, bench.clock.now)

    await bench.sightings.flush()

    assert await bench.stored() == {"a": Sighting("a", WALL + 5000.0, None, WALL + 5000.0 + 86400.0)}


async def test_a_node_without_a_row_costs_no_other_its_time(bench: Bench) -> None:
    for node_id in ("a", "deleted", "it's"):
        bench.answered(node_id)

    await bench.sightings.flush()

    assert set(await bench.stored()) == {"a"}


async def test_seeing_a_node_leaves_its_row_and_the_event_log_alone(bench: Bench) -> None:
    async with bench.database.reading() as session:
        before = await nodes.read(session)
    bench.answered("a")

    await bench.sightings.flush()

    async with bench.database.reading() as session:
        assert await nodes.read(session) == before


async def test_the_loop_survives_failures_counts_them_and_goes_on(bench: Bench) -> None:
    bench.database.fails = "before"
    bench.answered("a")
    running = asyncio.create_task(bench.sightings.run())

    async with asyncio.timeout(30):
        while bench.metrics.value("sighting_failures_total") < 2:
            bench.database.asked.clear()
            await bench.database.asked.wait()
        bench.database.fails = None
        while not await bench.stored():
            bench.database.asked.clear()
            bench.clock.now += 1
            bench.answered("a")
            await bench.database.asked.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.metrics.value("sightings_written_total") >= 1


async def test_the_end_is_a_last_flush(bench: Bench) -> None:
    async with bench.sightings:
        bench.answered("a")

    assert set(await bench.stored()) == {"a"}


async def test_a_deleted_node_takes_its_sightings_along_and_a_new_one_starts_anew(bench: Bench) -> None:
    from sqlalchemy import text

    bench.answered("a")
    await bench.sightings.flush()
    async with bench.database.writing() as session:
        await session.execute(text("DELETE FROM nodes WHERE id = 'a'"))
    assert await bench.stored() == {}

    async with bench.database.writing() as session:
        await nodes.meet(session, hello(Role.LINK, "a"), is_link=True, wall_at=1.0)
    bench.clock.now += 1
    bench.answered("a")
    await bench.sightings.flush()
    assert (await bench.stored())["a"].probe_wall_at == WALL + 5001.0
