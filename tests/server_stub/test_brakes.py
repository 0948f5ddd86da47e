"""The demotion brake in a real server, before a fleet on real sockets: a cut network, a rack, a firewall, a return."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from server_stub.core.brakes import BrakeName
from tests.support.server_peers import Client
from tests.support.small_fleet import (
    Rack,
    ShiftedClock,
    SmallFleet,
    all_checked,
    all_in,
    commands_in,
    count_in,
    events_of,
    eventually,
    states,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server_stub.main import RunningServer
    from tests.server_stub.conftest import Serve

pytestmark = pytest.mark.slow

NODES = 24
TRIPS_AT = 12
"""Half of them."""
SETTINGS: dict[str, Any] = {
    "probe_interval_s": 0.5,
    "probe_budget_s": 1.2,
    "probe_try_timeout_s": 1.2,
    "offline_timeout_s": 60.0,
    "silence_timeout_s": 60.0,
    "hello_timeout_s": 30.0,
    "repair": "on",
    "repair_after_s": 0.5,
    "log_level": "critical",
}
GONE = ("UNREACHABLE", "NOT_READY", "UNKNOWN")


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@asynccontextmanager
async def fleet_of(*numbers: int) -> AsyncIterator[SmallFleet]:
    """Give a fleet with racks of so many nodes."""
    racks = [Rack(f"r{rack}-n{number:02}" for number in range(size)) for rack, size in enumerate(numbers)]
    fleet = SmallFleet(*racks)
    await fleet.open()
    try:
        yield fleet
    finally:
        await fleet.close()


@asynccontextmanager
async def client_of(server: RunningServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(server.url, http)


async def demotion_brake(server: RunningServer) -> dict[str, Any]:
    async with client_of(server) as client:
        shown = {brake["name"]: brake for brake in (await client.get("/v1/brakes"))["brakes"]}
    assert set(shown) == set(BrakeName)
    found: dict[str, Any] = shown["demotions"]
    return found


async def brake_is(server: RunningServer, *, on: bool) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        shown = await demotion_brake(server)
        return shown if shown["is_on"] is on else None

    shown: dict[str, Any] = await eventually(found, f"a brake that is {'on' if on else 'off'}")
    return shown


async def all_well(server: RunningServer, fleet: SmallFleet, *, links: bool = True) -> None:
    await fleet.dial(server, links=links)
    await all_in(server, "READY", len(fleet.names))


def never_demoted(fleet: SmallFleet, words: dict[str, str]) -> set[str]:
    return {name for name in fleet.names if words[name] not in GONE}


async def words_told(server: RunningServer, names: set[str]) -> list[str]:
    """Give the states that these nodes were ever said to enter."""
    return [
        detail["after"] for _, node_id, detail in await events_of(server, "node.state") if node_id in names
    ]


async def test_a_server_whose_network_is_cut_suspects_itself_and_demotes_nobody_beyond_the_threshold(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with fleet_of(NODES) as fleet, serve(clock, **SETTINGS) as server:
        await all_well(server, fleet, links=False)

        await fleet.racks[0].cut()
        await fleet.hang_up()
        shown = await brake_is(server, on=True)
        clock.ahead_s += 30.0
        await all_checked(server)
        frozen = await states(server)

        assert "the server suspects itself" in shown["reason"]
        assert sum(word in GONE for word in frozen.values()) < TRIPS_AT
        assert [type_ for type_, _, _ in await events_of(server, "brake.")] == ["brake.on"]
        assert server.metrics.value("brake_on", brake="demotions") == 1.0
        assert server.metrics.value("demotions_withheld_total") >= NODES - TRIPS_AT + 1

        # What was already UNREACHABLE goes no further, however long it lasts.
        clock.ahead_s += 100.0
        await all_checked(server)
        assert await states(server) == frozen

        kept = never_demoted(fleet, frozen)
        await fleet.racks[0].open()
        await brake_is(server, on=False)
        await fleet.dial(server, links=False)
        await all_in(server, "READY", NODES)

        assert [type_ for type_, _, _ in await events_of(server, "brake.")] == ["brake.on", "brake.off"]
        assert set(await words_told(server, kept)) <= {"PENDING", "READY", "DEGRADED"}
        assert await commands_in(server) == []


async def test_an_operator_lifts_the_brake_and_what_is_gone_is_said_to_be_gone(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with fleet_of(NODES) as fleet, serve(clock, **SETTINGS) as server:
        await all_well(server, fleet, links=False)
        await fleet.racks[0].cut()
        await brake_is(server, on=True)

        async with client_of(server) as client:
            lifted = await client.post(
                "/v1/brakes/demotions/lift",
                {"reason": "the hall is on fire", "actor": "ops", "for_s": 600.0},
                200,
            )
            await all_in(server, "UNREACHABLE", NODES)
            refused = await client.post("/v1/brakes/handbrake/lift", {"reason": "x"}, 404)
            wrong = await client.post("/v1/brakes/demotions/lift", {"reason": "x", "for_s": 0}, 422)
            silent = await client.post("/v1/brakes/demotions/lift", {"for_s": 60}, 422)

        shown = next(brake for brake in lifted["brakes"] if brake["name"] == "demotions")
        assert (shown["is_on"], shown["lifted_by"], shown["reason"]) == (False, "ops", "the hall is on fire")
        assert refused["type"].endswith("no-such-brake")
        assert (wrong["field"], silent["field"]) == ("for_s", "reason")

        # The lift ends; what was believed to be gone by then does not trip it again.
        clock.ahead_s += 601.0
        await eventually(lambda: events_of(server, "brake.lift-ended"), "the lift's end")
        await all_checked(server)
        told = [(type_, detail.get("actor")) for type_, _, detail in await events_of(server, "brake.")]
        assert told == [("brake.on", None), ("brake.lifted", "ops"), ("brake.lift-ended", None)]


async def test_a_server_restarted_while_its_network_is_cut_keeps_the_brake_on(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with fleet_of(NODES) as fleet:
        async with serve(clock, **SETTINGS) as server:
            await all_well(server, fleet, links=False)
            await fleet.racks[0].cut()
            await brake_is(server, on=True)
            await eventually(lambda: events_of(server, "brake.on"), "the brake's event")
            await fleet.hang_up()
            frozen = await states(server)

        async with serve(clock, **SETTINGS) as server:
            assert (await demotion_brake(server))["is_on"]
            await all_checked(server)
            assert (await demotion_brake(server))["is_on"], "nobody was heard, and that proves nothing yet"
            clock.ahead_s += 61.0
            await all_checked(server)
            assert (await demotion_brake(server))["is_on"]
            assert sum(word in GONE for word in (await states(server)).values()) < TRIPS_AT
            assert never_demoted(fleet, frozen) == never_demoted(fleet, await states(server))

            await fleet.racks[0].open()
            await brake_is(server, on=False)
            await fleet.dial(server, links=False)
            await all_in(server, "READY", NODES)
            told = [type_ for type_, _, _ in await events_of(server, "brake.")]
            assert told == ["brake.on", "brake.off"]


async def test_a_server_that_starts_into_a_cut_network_brakes_when_it_would_begin_to_demote(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with fleet_of(NODES) as fleet:
        async with serve(clock, **SETTINGS) as server:
            await all_well(server, fleet, links=False)
            await fleet.hang_up()
        await fleet.racks[0].cut()

        async with serve(clock, **SETTINGS) as server:
            await all_checked(server)
            assert await count_in(server, *GONE) == 0
            clock.ahead_s += 61.0
            await brake_is(server, on=True)
            await all_checked(server)
            assert await count_in(server, *GONE) < TRIPS_AT


async def test_a_rack_that_dies_is_demoted_as_ever(serve: Serve, clock: ShiftedClock) -> None:
    async with fleet_of(21, 9) as fleet, serve(clock, **SETTINGS) as server:
        await all_well(server, fleet, links=False)

        await fleet.racks[1].cut()
        words = await all_in(server, "UNREACHABLE", 9)

        assert {name for name, word in words.items() if word == "UNREACHABLE"} == set(fleet.racks[1].names)
        assert not (await demotion_brake(server))["is_on"]
        assert await events_of(server, "brake.") == []

        await fleet.racks[1].open()
        await all_in(server, "READY", 30)


async def test_a_server_restarted_while_a_rack_dies_demotes_it_after_an_offline_timeout(serve: Serve) -> None:
    settings = SETTINGS | {"offline_timeout_s": 8.0, "silence_timeout_s": 8.0}
    async with fleet_of(21, 9) as fleet:
        async with serve(**settings) as server:
            await all_well(server, fleet, links=False)
            await fleet.racks[1].cut()
            await fleet.hang_up()

        async with serve(**settings) as server:
            await fleet.dial(server, fleet.racks[0], links=False)

            async def is_rack_gone() -> bool:
                words = await states(server)
                return {name for name, word in words.items() if word in GONE} == set(fleet.racks[1].names)

            await eventually(is_rack_gone, "exactly the rack gone")
            await all_checked(server)
            assert await is_rack_gone()
            assert await events_of(server, "brake.") == []


async def test_a_firewall_before_every_healthy_node_restarts_none(serve: Serve, clock: ShiftedClock) -> None:
    async with fleet_of(NODES) as fleet:
        async with serve(clock, **SETTINGS) as server:
            await all_well(server, fleet)
            await fleet.racks[0].cut()
            await brake_is(server, on=True)
            await all_checked(server)
            async with client_of(server) as client:
                listed = (await client.get("/v1/nodes"))["nodes"]
                kept = [node for node in listed if node["state"] == "READY"]
                why = await client.get(f"/v1/nodes/{kept[0]['id']}/explain")

            assert len(kept) > NODES - TRIPS_AT
            assert {node["withheld"] for node in kept} == {"UNREACHABLE"}
            assert {reason["code"] for node in listed for reason in node["reasons"]} == {"ProbePathBlocked"}
            assert "demotion: none while the brake is on" in [step["what"] for step in why["next_steps"]]
            assert await commands_in(server) == []
            assert await events_of(server, "repair.") == []
            await fleet.hang_up()

        async with serve(clock, **SETTINGS) as server:
            await fleet.dial(server)
            clock.ahead_s += 61.0
            await fleet.hang_up()
            await fleet.dial(server)
            await all_checked(server)

            assert (await demotion_brake(server))["is_on"]
            assert await count_in(server, *GONE) < TRIPS_AT
            assert await commands_in(server) == []
            assert await events_of(server, "repair.") == []


async def test_in_a_fleet_too_small_for_a_brake_a_blocked_probe_path_is_said_and_repairs_nothing(
    serve: Serve, clock: ShiftedClock
) -> None:
    async with fleet_of(6) as fleet, serve(clock, **SETTINGS) as server:
        await all_well(server, fleet)
        await fleet.racks[0].cut()
        await all_in(server, "UNREACHABLE", 6)
        await all_checked(server)
        async with client_of(server) as client:
            listed = await client.get("/v1/nodes")

        assert {node["state_reason"] for node in listed["nodes"]} == {"ProbePathBlocked"}
        assert not (await demotion_brake(server))["is_on"]
        assert await commands_in(server) == []
        assert await events_of(server, "repair.") == []


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_fleet_that_returns_at_once_after_an_hour_neither_flaps_nor_is_repaired(
    serve: Serve, clock: ShiftedClock, is_restarted: bool
) -> None:
    async with fleet_of(NODES) as fleet:
        async with serve(clock, **SETTINGS) as server:
            await all_well(server, fleet)
            await fleet.racks[0].cut()
            await fleet.hang_up()
            await brake_is(server, on=True)
            clock.ahead_s += 3600.0
            await all_checked(server)
            gone = {name for name, word in (await states(server)).items() if word in GONE}
            assert len(gone) < TRIPS_AT
            if not is_restarted:
                await _returns(server, fleet)
                await _neither_flapped_nor_was_repaired(server, fleet, gone)
        if is_restarted:
            async with serve(clock, **SETTINGS) as server:
                await all_checked(server, 1)
                await _returns(server, fleet)
                # A brake taken over from an earlier process is released after a whole offline time-out.
                assert (await demotion_brake(server))["is_on"]
                clock.ahead_s += 61.0
                await _neither_flapped_nor_was_repaired(server, fleet, gone)


async def _returns(server: RunningServer, fleet: SmallFleet) -> None:
    await fleet.racks[0].open()
    await fleet.dial(server)
    await all_in(server, "READY", NODES)


async def _neither_flapped_nor_was_repaired(server: RunningServer, fleet: SmallFleet, gone: set[str]) -> None:
    await brake_is(server, on=False)
    await eventually(lambda: events_of(server, "brake.off"), "the release's event")
    await fleet.hang_up()
    await fleet.dial(server)
    await all_checked(server)
    await all_in(server, "READY", NODES)

    assert not set(await words_told(server, set(fleet.names) - gone)) & set(GONE)
    assert set(await words_told(server, gone)) <= {"PENDING", "READY", "DEGRADED", "UNREACHABLE"}
    assert [type_ for type_, _, _ in await events_of(server, "brake.")] == ["brake.on", "brake.off"]
    assert await commands_in(server) == []
    assert await events_of(server, "repair.") == []


@pytest.mark.parametrize(("wall_ahead_s", "is_lifted"), [(0.0, True), (-10 * 86400.0, True)])
async def test_a_lift_survives_a_restart_and_no_turned_clock_makes_it_last_for_ever(
    serve: Serve, clock: ShiftedClock, wall_ahead_s: float, is_lifted: bool
) -> None:
    async with serve(clock, **SETTINGS) as server, client_of(server) as client:
        for name in BrakeName:
            await client.post(f"/v1/brakes/{name}/lift", {"reason": "a drill", "for_s": 600.0}, 200)

    clock.wall_ahead_s += wall_ahead_s
    async with serve(clock, **SETTINGS) as server, client_of(server) as client:
        shown = (await client.get("/v1/brakes"))["brakes"]
        assert [brake["lifted_until"] is not None for brake in shown] == [is_lifted, is_lifted]
        assert [brake["is_on"] for brake in shown] == [False, False]
        assert server.brakes.is_command_brake_lifted is is_lifted
        if is_lifted:
            clock.ahead_s += 86401.0

            async def are_over() -> bool:
                ended = await events_of(server, "brake.lift-ended")
                return {detail["brake"] for _, _, detail in ended} == set(BrakeName)

            await eventually(are_over, "the end of both lifts")
