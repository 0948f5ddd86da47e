"""The repair policy in a real server: one restart for a worker that stalls, and everything that keeps it from one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from sqlalchemy import select, update

from nanny.protocol.messages import CommandAccepted, CommandOrder, CommandOutcome, Outcome, Role
from server_stub.core.repair import ACTOR
from server_stub.store.tables import NodeRow, RepairRow
from tests.support.server_peers import Client, Peer, life, nanny_report
from tests.support.small_fleet import (
    Rack,
    ShiftedClock,
    SmallFleet,
    all_checked,
    commands_in,
    events_of,
    eventually,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server_stub.main import RunningServer
    from tests.server_stub.conftest import Serve

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "probe_interval_s": 0.5,
    "probe_budget_s": 1.2,
    "probe_try_timeout_s": 1.2,
    "offline_timeout_s": 1.5,
    "silence_timeout_s": 60.0,
    "hello_timeout_s": 30.0,
    "repair": "on",
    "repair_after_s": 0.5,
    "log_level": "critical",
}
STALLED = {"status": "stalled", "incarnation": str(life(1)), "stalled_at": "trainer.py:7 in load"}
NODE = "n0"


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@asynccontextmanager
async def stalled_nodes(number: int = 1) -> AsyncIterator[SmallFleet]:
    """Give nodes whose workers say that their event loop stands."""
    fleet = SmallFleet(Rack(f"n{one}" for one in range(number)))
    fleet.racks[0].says = STALLED
    await fleet.open()
    try:
        yield fleet
    finally:
        await fleet.close()


async def repair_events(server: RunningServer) -> list[tuple[str, Any]]:
    """Give type and, of those withheld, the reason; whether the start is told depends on how slow the test is."""
    told = [(type_, detail.get("why")) for type_, _, detail in await events_of(server, "repair.")]
    return [one for one in told if one[1] != "server-just-started"]


async def told_last(server: RunningServer, type_: str, why: str | None = None) -> None:
    """Wait until this is the latest event of the policy."""

    async def found() -> bool:
        return (await repair_events(server))[-1:] == [(type_, why)]

    try:
        await eventually(found, f"{type_} {why or ''} to be the last event")
    except AssertionError:
        raise AssertionError(f"expected {type_} {why}: {await repair_events(server)}") from None


async def repair_rows(server: RunningServer) -> list[RepairRow]:
    async with server.database.reading() as session:
        return list(await session.scalars(select(RepairRow).order_by(RepairRow.id)))


def link_of(fleet: SmallFleet, name: str = NODE) -> Peer:
    return fleet.peers[Role.LINK, name]


async def test_a_worker_that_stalls_gets_one_restart_aimed_at_its_life(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        await fleet.dial(server)
        link = link_of(fleet)

        order = await link.expect(CommandOrder)
        await link.send(CommandAccepted(order.command_id))
        await link.send(nanny_report(number=2))
        fleet.racks[0].says = {"status": "ok", "incarnation": str(life(2))}
        await link.send(CommandOutcome(order.command_id, Outcome.DONE, "restarted", life(2)))
        async with aiohttp.ClientSession() as http:
            await Client(server.url, http).finished(order.command_id)
        await all_checked(server)

        assert (order.kind, order.actor, order.target) == ("restart", ACTOR, life(1))
        assert order.reason == "repair: Stalled: in trainer.py:7 in load"
        assert await commands_in(server) == [(NODE, ACTOR, "done")]
        (ordered,) = await events_of(server, "repair.ordered")
        assert ordered[1:] == (
            NODE,
            {
                "command": order.command_id,
                "incarnation": str(life(1)),
                "reason": "Stalled: in trainer.py:7 in load",
            },
        )
        assert (await repair_rows(server))[0].command_id == order.command_id
        assert server.metrics.value("repairs_total", mode="on") == 1.0
        assert server.repairs.next_step(NODE) is None


async def test_a_restart_that_did_not_help_is_not_repeated_and_that_is_said_once(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        await fleet.dial(server)
        link = link_of(fleet)
        order = await link.expect(CommandOrder)
        await link.send(CommandOutcome(order.command_id, Outcome.FAILED, "no number left", life(1)))
        await told_last(server, "repair.withheld", "node-budget")
        await all_checked(server, 4)

        assert await repair_events(server) == [("repair.ordered", None), ("repair.withheld", "node-budget")]
        assert await commands_in(server) == [(NODE, ACTOR, "failed")]
        step = server.repairs.next_step(NODE)
        assert step is not None
        assert step.at is not None
        assert step.at - clock.monotonic() == pytest.approx(900.0, abs=120.0)
        assert step.what == "restart of incarnation 1 through its nanny"

    # Neither a restarted server nor one whose wall clock was set back ten days forgets what was spent.
    clock.wall_ahead_s -= 10 * 86400.0
    async with serve(clock, **SETTINGS) as server:
        await fleet_again(fleet, server)
        await told_last(server, "repair.withheld", "node-budget")
        await all_checked(server)

        assert len(await commands_in(server)) == 1
        (row,) = await repair_rows(server)
        assert row.wall_at <= clock.wall()  # it ages from here on, so the budget is not closed for ever

    # Set forward, it opens the budget once, and what is spent then counts.
    clock.wall_ahead_s += 20 * 86400.0
    async with serve(clock, **SETTINGS) as server:
        await fleet_again(fleet, server)
        order = await link_of(fleet).expect(CommandOrder)
        await link_of(fleet).send(CommandOutcome(order.command_id, Outcome.FAILED, "again", life(1)))
        await told_last(server, "repair.withheld", "node-budget")
        assert len(await commands_in(server)) == 2
    await fleet.close()


async def fleet_again(fleet: SmallFleet, server: RunningServer) -> None:
    await fleet.hang_up()
    for rack in fleet.racks:
        await rack.cut()
        await rack.open()
    await fleet.dial(server)


async def test_by_default_it_is_only_said_what_would_be_done(serve: Serve, clock: ShiftedClock) -> None:
    defaults = {name: value for name, value in SETTINGS.items() if name != "repair"}
    async with stalled_nodes() as fleet, serve(clock, **defaults) as server:
        await fleet.dial(server)
        await told_last(server, "repair.withheld", "node-budget")

        assert await repair_events(server) == [("repair.dry-run", None), ("repair.withheld", "node-budget")]
        assert await commands_in(server) == []
        assert [row.is_dry_run for row in await repair_rows(server)] == [True]
        step = server.repairs.next_step(NODE)
        assert step is not None
        assert step.what.endswith("only said: repair is dry-run")


async def test_turned_off_it_says_nothing(serve: Serve, clock: ShiftedClock) -> None:
    async with stalled_nodes() as fleet, serve(clock, **(SETTINGS | {"repair": "off"})) as server:
        await fleet.dial(server)
        await all_checked(server, 8)

        assert await repair_events(server) == []
        assert await commands_in(server) == []


async def test_a_silent_worker_whose_nanny_finds_it_unwell_is_restarted(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        await fleet.dial(server, phase="degraded")
        await fleet.racks[0].cut()
        await fleet.peers[Role.WORKER, NODE].disconnect()

        order = await link_of(fleet).expect(CommandOrder)

        assert order.reason == (
            "repair: WorkerSilent: probe: refused, no word from its worker, and its nanny says degraded"
        )
        assert order.target == life(1)


async def test_a_node_whose_nanny_is_silent_too_is_only_marked(serve: Serve, clock: ShiftedClock) -> None:
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        await fleet.dial(server, links=False)
        await all_checked(server, 8)

        assert await repair_events(server) == []
        assert await commands_in(server) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"hold_remaining_s": 600.0}, "held"), ({"draining": True}, "draining"), ({"incarnation": None}, None)],
)
async def test_a_nanny_that_holds_or_drains_is_left_alone(
    serve: Serve, clock: ShiftedClock, changed: dict[str, Any], why: str | None
) -> None:
    fleet_says = STALLED if why is not None else STALLED | {"incarnation": None}
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        fleet.racks[0].says = fleet_says
        link = fleet.peers[Role.LINK, NODE] = Peer(server.url, Role.LINK, NODE)
        await link.connect()
        await link.send(nanny_report(**changed))
        await fleet.dial(server, links=False)
        await told_last(server, "repair.withheld", why or "incarnation-unknown")
        await all_checked(server, 4)

        assert [told for told in await repair_events(server) if told[0] != "repair.withheld"] == []
        assert await commands_in(server) == []


async def test_maintenance_and_open_commands_are_respected(serve: Serve, clock: ShiftedClock) -> None:
    async with stalled_nodes() as fleet, serve(clock, **SETTINGS) as server:
        async with aiohttp.ClientSession() as http:
            fleet.racks[0].says = {"status": "ok", "incarnation": str(life(1))}
            await fleet.dial(server)
            client, link = Client(server.url, http), link_of(fleet)
            await client.node_in("READY", NODE)
            drained = await client.order("drain", NODE)
            await link.send(CommandAccepted((await link.expect(CommandOrder)).command_id))
            fleet.racks[0].says = STALLED
            await told_last(server, "repair.withheld", "command-open")

            async with server.database.writing() as session:
                await session.execute(
                    update(NodeRow).values(lifecycle="maintenance", version_id=NodeRow.version_id + 1)
                )
            server.syncer.reread(NODE)
            await told_last(server, "repair.withheld", "maintenance")
            await link.send(CommandOutcome(drained["id"], Outcome.DONE, "", life(1)))
            await all_checked(server)

        assert [actor for _, actor, _ in await commands_in(server)] == ["tester"]


async def test_the_fleets_budget_stops_automatic_commands_but_nobodys_own(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with stalled_nodes(3) as fleet, serve(clock, **SETTINGS) as server:
        await fleet.dial(server)
        async with aiohttp.ClientSession() as http:
            client = Client(server.url, http)

            async def command_brake() -> dict[str, Any]:
                shown = (await client.get("/v1/brakes"))["brakes"]
                found: dict[str, Any] = next(brake for brake in shown if brake["name"] == "commands")
                return found

            async def is_on() -> bool:
                return bool((await command_brake())["is_on"])

            await eventually(is_on, "the command brake")
            assert len(await commands_in(server)) == 1
            assert (await command_brake())["reason"] == "1 of 1 repairs of the fleet within 600 s made"
            withheld = {told for told in await repair_events(server) if told[1] == "fleet-budget"}
            assert withheld == {("repair.withheld", "fleet-budget")}

            for name in fleet.names:
                await client.order("collect-evidence", name)
            assert len([one for one in await commands_in(server) if one[1] == "tester"]) == 3

            for name in fleet.names:
                link = link_of(fleet, name)
                while (order := await link.expect(CommandOrder)).kind != "collect-evidence":
                    pass
                await link.send(CommandOutcome(order.command_id, Outcome.DONE, "", life(1)))
            await client.post("/v1/brakes/commands/lift", {"reason": "all of them, please"}, 200)

            async def are_all_ordered() -> bool:
                return {node for node, actor, _ in await commands_in(server) if actor == ACTOR} == set(
                    fleet.names
                )

            await eventually(are_all_ordered, "a restart of each")
            assert not await is_on()


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_server_that_dies_between_the_intent_and_its_record_orders_once_and_counts_once(
    serve: Serve, clock: ShiftedClock, is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stalled_nodes() as fleet:
        async with serve(clock, **SETTINGS) as server:
            await fleet.dial(server)
            submit, reached = server.commands.submit, asyncio.Event()

            async def die(**order: Any) -> Any:
                if is_stored:
                    await submit(**order)
                reached.set()
                await asyncio.Event().wait()  # nothing after this is done by this server

            monkeypatch.setattr(server.commands, "submit", die)
            async with asyncio.timeout(60.0):
                await reached.wait()
            (intent,) = await repair_rows(server)
            assert intent.command_id is None
            assert await repair_events(server) == []
            await fleet.hang_up()

        async with serve(clock, **SETTINGS) as server:
            await fleet.dial(server)
            order = await link_of(fleet).expect(CommandOrder)
            await link_of(fleet).send(CommandOutcome(order.command_id, Outcome.FAILED, "", life(1)))
            await told_last(server, "repair.withheld", "node-budget")
            await all_checked(server)

            assert await commands_in(server) == [(NODE, ACTOR, "failed")]
            assert [row.command_id for row in await repair_rows(server)] == [order.command_id]
            told = [type_ for type_, _ in await repair_events(server)]
            assert told.count("repair.ordered") == 1
