"""The syncer on a real database and a clock of the test's: what it writes, what it never writes, what it survives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from nanny.protocol.messages import Role
from server_stub import syncer as syncer_module
from server_stub.arrivals import ArrivalsByNode
from server_stub.brakes import Brakes
from server_stub.changes import Changes
from server_stub.core.brakes import BrakeSettings
from server_stub.core.connectivity import Settings, evaluate
from server_stub.core.node_facts import ProbeClass, ProbeFact
from server_stub.log import configure
from server_stub.metrics import Metrics
from server_stub.prober import Prober, ProbeSettings
from server_stub.store import nodes
from server_stub.store.engine import Database
from server_stub.syncer import Syncer
from tests.support.server_peers import hello, life, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.core.node_facts import NodeFacts, Verdict
    from server_stub.store.nodes import NodeRecord


pytestmark = pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


class HandClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000.0


class Interfering(Database):
    """A database in which somebody else is faster: runs `meanwhile` just before each transaction."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    @asynccontextmanager
    async def writing(self, operation: str = "other") -> AsyncIterator[AsyncSession]:
        if self.meanwhile is not None:
            await self.meanwhile()
        async with super().writing(operation) as session:
            yield session


class Bench:
    """A syncer and all that it stands on."""

    def __init__(self, database: Interfering) -> None:
        self.database = database
        self.clock = HandClock()
        self.metrics = Metrics()
        self.changes = Changes(0)
        self.arrivals = ArrivalsByNode(self.clock.now)
        self.prober = Prober(ProbeSettings(), self.clock, self.metrics)
        self.statements: list[str] = []
        log = configure("warning")
        self.brakes = Brakes(
            database=database,
            changes=self.changes,
            clock=self.clock,
            log=log,
            metrics=self.metrics,
            settings=BrakeSettings(),
            release_after_s=125.0,
        )
        self.syncer = Syncer(
            database=database,
            arrivals=self.arrivals,
            prober=self.prober,
            brakes=self.brakes,
            changes=self.changes,
            clock=self.clock,
            settings=Settings(),
            log=log,
            metrics=self.metrics,
            concurrency=10,
        )
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.statements.append(statement)

    def transactions_of_writers(self) -> list[str]:
        return [one for one in self.statements if one == "BEGIN IMMEDIATE" or "advisory_xact_lock" in one]

    async def add(self, *node_ids: str) -> None:
        async with self.database.writing() as session:
            for node_id in node_ids:
                await nodes.meet(session, hello(Role.LINK, node_id), is_link=True, wall_at=self.clock.wall())
            await session.flush()
            for node_id in node_ids:
                await nodes.register(session, node_id, registration(8000), "127.0.0.1", self.clock.wall())

    def is_well(self, node_id: str) -> None:
        arrivals, now = self.arrivals.of(node_id), self.clock.now
        for role in (Role.LINK, Role.WORKER):
            arrivals.opened(role, now)
        arrivals.nanny_reported(nanny_report(), now)
        arrivals.registered(life(1), now, is_reborn=True)
        self.is_probed(node_id)

    def is_probed(self, node_id: str, result: ProbeClass = ProbeClass.OK) -> None:
        self.arrivals.of(node_id).probed(ProbeFact(result, self.clock.now, self.clock.now, "ok", life(1)))

    async def row(self, node_id: str) -> NodeRecord:
        async with self.database.reading() as session:
            (record,) = await nodes.read(session, [node_id])
            return record


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    database = await Interfering.open(database_url)
    yield Bench(database)
    await database.close()


async def test_a_round_stores_what_changed(bench: Bench) -> None:
    await bench.add("a", "b")
    bench.is_well("a")

    await bench.syncer.round()

    assert (await bench.row("a")).state == "READY"
    assert (await bench.row("b")).state == "PENDING"


async def test_a_quiet_round_writes_nothing(bench: Bench) -> None:
    await bench.add(*(f"n{number}" for number in range(20)))
    for number in range(20):
        bench.is_well(f"n{number}")
    await bench.syncer.round()
    bench.statements.clear()

    for _ in range(3):
        bench.clock.now += 15.0
        for number in range(20):
            bench.is_probed(f"n{number}")
            bench.arrivals.of(f"n{number}").nanny_reported(nanny_report(), bench.clock.now)
        await bench.syncer.round()

    assert {statement.split()[0] for statement in bench.statements} <= {"SELECT", "BEGIN"}
    assert not bench.transactions_of_writers()
    assert len([statement for statement in bench.statements if statement.startswith("SELECT")]) == 3


async def test_a_node_that_was_looked_at_in_vain_is_not_looked_at_again(bench: Bench) -> None:
    await bench.add("a")
    bench.is_well("a")
    await bench.syncer.round()

    assert await bench.syncer.settle(["a"]) == set()

    assert bench.syncer._unsettled == set()


async def test_all_changes_of_a_round_are_one_statement_in_one_transaction(bench: Bench) -> None:
    names = [f"n{number}" for number in range(50)]
    await bench.add(*names)
    for name in names:
        bench.is_well(name)
    bench.statements.clear()

    await bench.syncer.round()

    assert len([one for one in bench.statements if "UPDATE nodes" in one]) == 1
    assert len(bench.transactions_of_writers()) == 1


async def test_a_stored_message_holds_a_since_time_and_does_not_run(bench: Bench) -> None:
    await bench.add("a")
    bench.is_well("a")
    await bench.syncer.round()
    bench.arrivals.of("a").closed(Role.LINK, bench.clock.now)
    bench.clock.now += 1.0
    bench.is_probed("a", ProbeClass.TIMEOUT)
    await bench.syncer.round()
    first = await bench.row("a")

    bench.clock.now += 15.0
    bench.is_probed("a", ProbeClass.TIMEOUT)
    await bench.syncer.round()

    assert first.state_message == (
        "probe timeout since 2023-11-14T23:36:41Z: no answer within the budget of the check"
    )
    assert await bench.row("a") == first


async def test_a_version_conflict_is_judged_again_and_no_update_is_lost(bench: Bench) -> None:
    await bench.add("a", "b")
    bench.is_well("a")
    bench.is_well("b")
    await bench.syncer.round()
    bench.is_probed("a", ProbeClass.STALLED)
    bench.is_probed("b", ProbeClass.STALLED)
    other = await Database.open(bench.database.engine.url.render_as_string())

    async def put_a_into_maintenance() -> None:
        bench.database.meanwhile = None
        async with other.writing() as session:
            await session.execute(
                text(
                    "UPDATE nodes SET lifecycle='maintenance', version_id = version_id + 1,"
                    " maintenance_by='alice', maintenance_reason='fans' WHERE id='a'"
                )
            )

    bench.database.meanwhile = put_a_into_maintenance
    await bench.syncer.settle(["a", "b"])
    await other.close()

    a, b = await bench.row("a"), await bench.row("b")
    assert (a.lifecycle, a.state, a.state_detail) == (
        "maintenance",
        "MAINTENANCE",
        "in maintenance by alice: fans",
    )
    assert b.state == "STALLED"
    assert bench.metrics.value("verdict_conflicts_total") == 1


async def test_a_loser_is_written_from_its_new_row(bench: Bench) -> None:
    await bench.add("a")
    bench.is_well("a")
    other = await Database.open(bench.database.engine.url.render_as_string())

    async def rename() -> None:
        bench.database.meanwhile = None
        async with other.writing() as session:
            await session.execute(text("UPDATE nodes SET name='new', version_id = version_id + 1"))

    bench.database.meanwhile = rename
    written = await bench.syncer.settle(["a"])
    await other.close()

    row = await bench.row("a")
    assert (written, row.name, row.state) == ({"a"}, "new", "READY")


async def test_one_nodes_exception_is_that_nodes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.add("bad", "good")
    bench.is_well("bad")
    bench.is_well("good")

    def fails_for_one(facts: NodeFacts, now: float, limits: Settings) -> Verdict:
        if facts.probe is bench.arrivals.of("bad").probe:
            raise RuntimeError("no verdict")
        return evaluate(facts, now, limits)

    monkeypatch.setattr(syncer_module, "evaluate", fails_for_one)
    await bench.syncer.round()

    assert (await bench.row("good")).state == "READY"
    assert (await bench.row("bad")).state == "PENDING"
    assert bench.metrics.value("sync_node_failures_total") >= 1


async def test_a_word_of_a_newer_version_in_the_database_is_no_error(bench: Bench) -> None:
    await bench.add("a")
    bench.is_well("a")
    async with bench.database.writing() as session:
        await session.execute(text("UPDATE nodes SET state='HIBERNATING', lifecycle='hibernating'"))

    await bench.syncer.round()

    assert (await bench.row("a")).state == "READY"


@pytest.mark.parametrize(("silent_s", "state"), [(99.0, "READY"), (101.0, "NOT_READY")])
async def test_a_restarted_server_demotes_nobody_before_a_whole_offline_timeout(
    bench: Bench, silent_s: float, state: str
) -> None:
    await bench.add("a")
    bench.is_well("a")
    await bench.syncer.round()
    bench.arrivals = ArrivalsByNode(bench.clock.now)
    bench.syncer._arrivals = bench.arrivals

    bench.clock.now += silent_s
    bench.arrivals.of("a").probed(ProbeFact(ProbeClass.TIMEOUT, bench.clock.now, bench.clock.now))
    await bench.syncer.round()

    assert (await bench.row("a")).state == state


async def test_a_nodes_clock_is_never_among_the_facts(bench: Bench) -> None:
    await bench.add("a")
    bench.is_well("a")
    bench.arrivals.of("a").nanny_reported(
        nanny_report(desired_since_s=1e9, uptime_s=1e9, beat_age_s=1e9), bench.clock.now
    )

    await bench.syncer.round()

    assert (await bench.row("a")).state == "READY"
