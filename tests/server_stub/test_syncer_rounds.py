"""What a round costs and tells: versions instead of rows, no verdict without a new fact, names once, no leftovers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import event, text
from structlog.testing import LogCapture

from nanny.protocol.messages import Role
from server_stub import syncer as syncer_module
from server_stub.arrivals import ArrivalsByNode
from server_stub.brakes import Brakes
from server_stub.changes import Changes
from server_stub.clock import SystemClock
from server_stub.core.brakes import BrakeSettings
from server_stub.core.connectivity import Settings, evaluate
from server_stub.core.node_facts import ProbeClass, ProbeFact
from server_stub.metrics import Metrics
from server_stub.prober import Prober, ProbeSettings
from server_stub.store import nodes, row_versions
from server_stub.store.engine import Database, sqlite_url
from server_stub.syncer import NAMES_SHOWN, Syncer
from tests.support.server_peers import healthz_server, hello, life, registration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from server_stub.core.node_facts import NodeFacts, Verdict

SETTINGS = ProbeSettings(budget_s=1.0, try_timeout_s=0.4, interval_s=0.2, pause_s=0.05)


class Bench:
    """A syncer on a real database, with a prober that is open; the clock is the machine's."""

    def __init__(self, database: Database, prober: Prober, metrics: Metrics) -> None:
        self.database = database
        self.metrics = metrics
        self.clock = SystemClock()
        self.arrivals = ArrivalsByNode(self.clock.monotonic())
        self.prober = prober
        self.statements: list[str] = []
        self.told = LogCapture()
        log: FilteringBoundLogger = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[self.told],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
        )
        changes = Changes(0)
        brakes = Brakes(
            database=database,
            changes=changes,
            clock=self.clock,
            log=log,
            metrics=metrics,
            settings=BrakeSettings(),
            release_after_s=125.0,
        )
        self.syncer = Syncer(
            database=database,
            arrivals=self.arrivals,
            prober=prober,
            brakes=brakes,
            changes=changes,
            clock=self.clock,
            settings=Settings(),
            log=log,
            metrics=metrics,
            concurrency=100,
        )
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.statements.append(" ".join(statement.split()))

    async def add(self, *node_ids: str, port: int = 8000) -> None:
        async with self.database.writing() as session:
            for node_id in node_ids:
                await nodes.meet(session, hello(Role.LINK, node_id), is_link=True, wall_at=self.clock.wall())
            await session.flush()
            for node_id in node_ids:
                await nodes.register(session, node_id, registration(port), "127.0.0.1", self.clock.wall())

    def probed(self, *node_ids: str, result: ProbeClass = ProbeClass.OK) -> None:
        now = self.clock.monotonic()
        for node_id in node_ids:
            self.arrivals.of(node_id).registered(life(1), now, is_reborn=False)
            self.arrivals.of(node_id).probed(ProbeFact(result, now, now, "ok", life(1)))

    def lines(self, event: str) -> list[Any]:
        """Give, and forget, the lines of the log with this text."""
        found = [line for line in self.told.entries if line["event"] == event]
        self.told.entries.clear()
        return found

    async def states(self) -> dict[str, str]:
        async with self.database.reading() as session:
            return {record.id: record.state for record in await nodes.read(session)}

    async def until(self, metric: str, number: float, **label: str) -> None:
        async with asyncio.timeout(60):
            while self.metrics.value(metric, **label) < number:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = await Database.open(sqlite_url(str(tmp_path / "x.sqlite3")))
    metrics = Metrics()
    async with Prober(SETTINGS, SystemClock(), metrics) as prober:
        yield Bench(database, prober, metrics)
    await database.close()


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_round_reads_versions_and_only_the_rows_that_are_new(bench: Bench) -> None:
    await bench.add("a", "b", "c")
    await bench.syncer.round()
    async with bench.database.writing() as session:
        await session.execute(text("UPDATE nodes SET name='new', version_id = version_id + 1 WHERE id='b'"))
    bench.statements.clear()

    await bench.syncer.round()
    first = [one for one in bench.statements if one.startswith("SELECT")]
    bench.statements.clear()
    await bench.syncer.round()
    second = [one for one in bench.statements if one.startswith("SELECT")]

    assert [one.partition(" FROM ")[0] for one in second] == ["SELECT nodes.id, nodes.version_id"]
    assert first[0] == second[0]
    assert len(first) == 2
    assert bench.syncer._known["b"].name == "new"


async def test_more_nodes_than_a_page_are_all_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_versions, "PAGE", 3)
    names = [f"n{number}" for number in range(9)]
    await bench.add(*names)
    bench.probed(*names)

    await bench.syncer.round()

    assert set((await bench.states()).values()) <= {"READY", "DEGRADED"}
    assert sorted(bench.syncer._known) == names


async def test_without_a_new_fact_nobody_is_judged_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = 0

    def counting(facts: NodeFacts, now: float, limits: Settings) -> Verdict:
        nonlocal judged
        judged += 1
        return evaluate(facts, now, limits)

    await bench.add("a", "b")
    bench.probed("a", "b")
    await bench.syncer.round()
    await bench.syncer.round()
    monkeypatch.setattr(syncer_module, "evaluate", counting)

    await bench.syncer.round()
    in_a_quiet_round = judged
    bench.probed("a", result=ProbeClass.STALLED)
    await bench.syncer.round()

    assert in_a_quiet_round == 0
    assert judged >= 1
    assert (await bench.states())["a"] == "STALLED"


async def test_changes_that_could_not_be_stored_are_found_again(bench: Bench) -> None:
    await bench.add("a")
    await bench.syncer.round()
    bench.probed("a", result=ProbeClass.STALLED)
    async with bench.database.writing() as session:
        await session.execute(text("ALTER TABLE events RENAME TO away"))

    with pytest.raises(Exception, match="events"):
        await bench.syncer.round()
    async with bench.database.writing() as session:
        await session.execute(text("ALTER TABLE away RENAME TO events"))
    await bench.syncer.round()

    assert await bench.states() == {"a": "STALLED"}


async def test_a_round_names_the_nodes_that_are_new_in_a_state_on_one_line(
    bench: Bench,
) -> None:
    names = [f"n{number:02}" for number in range(NAMES_SHOWN + 5)]
    await bench.add(*names)
    await bench.syncer.round()
    bench.told.entries.clear()

    bench.probed(*names, result=ProbeClass.STALLED)
    for name in names:
        await bench.syncer.settle([name])
    before_the_round = bench.lines("nodes changed state")
    await bench.syncer.round()
    lines = bench.lines("nodes changed state")
    await bench.syncer.round()

    assert before_the_round == []
    assert [(line["state"], line["count"]) for line in lines] == [("STALLED", len(names))]
    assert len(lines[0]["nodes"]) == NAMES_SHOWN
    assert lines[0]["nodes"][0].startswith("n00: ")
    assert bench.lines("nodes changed state") == []


async def test_a_node_whose_row_is_gone_is_not_probed_any_more(bench: Bench) -> None:
    async with healthz_server() as healthz:
        await bench.add("stays", "goes", port=healthz.port)
        running = asyncio.create_task(bench.syncer.run())
        await bench.until("probes_total", 4, result="ok")
        async with bench.database.writing() as session:
            await session.execute(text("DELETE FROM nodes WHERE id='goes'"))
        rounds = bench.metrics.value("sync_rounds_total")
        await bench.until("sync_rounds_total", rounds + 2)

        assert bench.syncer._known.keys() == {"stays"}
        assert len(bench.prober.sockets) <= 1
        await stop(running)


async def test_a_database_that_fails_costs_rounds_and_nothing_else(
    bench: Bench,
) -> None:
    async with healthz_server() as healthz:
        await bench.add("a", port=healthz.port)
        running = asyncio.create_task(bench.syncer.run())
        await bench.until("probes_total", 1, result="ok")
        async with bench.database.writing() as session:
            await session.execute(text("ALTER TABLE nodes RENAME TO away"))
        await bench.until("sync_round_failures_total", 2)
        asked = bench.metrics.value("probes_total", result="ok")
        await bench.until("probes_total", asked + 2, result="ok")
        async with bench.database.writing() as session:
            await session.execute(text("ALTER TABLE away RENAME TO nodes"))
        rounds = bench.metrics.value("sync_rounds_total")
        await bench.until("sync_rounds_total", rounds + 2)
        await stop(running)

    assert len(bench.lines("sync round failed")) == bench.metrics.value("sync_round_failures_total")


async def test_a_syncer_that_is_stopped_in_the_middle_leaves_nothing_behind(bench: Bench) -> None:
    before = asyncio.all_tasks()
    async with healthz_server() as healthz:
        healthz.hangs = True
        inside = asyncio.all_tasks()
        await bench.add(*(f"n{number}" for number in range(20)), port=healthz.port)
        running = asyncio.create_task(bench.syncer.run())
        await bench.until("sync_rounds_total", 1)
        async with asyncio.timeout(60):
            while healthz.asked < 5:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)
        bench.syncer.probe_now("n1")
        await asyncio.sleep(0)
        await stop(running)

        assert {task for task in asyncio.all_tasks() - inside if "row of" in task.get_name()} == set()
        assert len(bench.prober.sockets) == 0
    assert asyncio.all_tasks() == before
