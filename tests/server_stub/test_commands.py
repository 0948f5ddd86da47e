"""Commands from the API to the link and back: at least once delivered, one outcome, whatever breaks in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from nanny.protocol.messages import (
    CommandAccepted,
    CommandOrder,
    CommandOutcome,
    Outcome,
    OutcomeAcknowledged,
    Role,
)
from nanny.protocol.session_events import Established, MessageReceived
from tests.support.server_peers import Client, Peer, life, nanny_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from server_stub.main import RunningServer

    Peers = Callable[..., Peer]
    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


pytestmark = pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


async def known(client: Client, peers: Peers) -> Peer:
    """A node whose link has said who runs, and is connected."""
    link = peers(Role.LINK)
    await link.connect()
    await link.send(nanny_report())
    page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
    while page["nanny"] is None:
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
    return link


async def test_a_command_goes_to_the_link_and_its_outcome_comes_back(client: Client, peers: Peers) -> None:
    link = await known(client, peers)

    command = await client.order(target_incarnation="current", time_to_live_s=60.0, parameters={"why": "x"})
    order = await link.expect(CommandOrder)
    await link.send(CommandAccepted(order.command_id))
    await link.send(CommandOutcome(order.command_id, Outcome.DONE, "restarted", life(2)))
    acknowledged = await link.expect(OutcomeAcknowledged)
    finished = await client.finished(command["id"])

    assert (order.kind, order.target, order.actor, order.reason) == ("restart", life(1), "tester", "a test")
    assert order.parameters == {"why": "x"}
    assert 0.0 < order.time_to_live_s <= 60.0
    assert acknowledged.command_id == command["id"]
    assert (finished["state"], finished["detail"]) == ("done", "restarted")
    assert finished["incarnation_after"] == str(life(2))
    assert all(finished[when] for when in ("created", "sent", "accepted", "finished"))


async def test_every_step_is_an_event_in_order(client: Client, peers: Peers) -> None:
    link = await known(client, peers)
    command = await client.order()
    order = await link.expect(CommandOrder)
    await link.send(CommandAccepted(order.command_id))
    await link.send(CommandOutcome(order.command_id, Outcome.DONE, ""))
    await client.finished(command["id"])

    events = await client.events()

    steps = [type_ for type_, _, said in events if said.get("command") == command["id"]]
    assert steps == ["command.queued", "command.sent", "command.accepted", "command.done"]


async def test_a_command_for_a_node_that_is_away_waits_for_its_link(client: Client, peers: Peers) -> None:
    link = await known(client, peers)
    await link.disconnect()
    link.session.session_id = None  # its link was restarted, and knows no session
    await client.get("/v1/nodes/node-1")
    command = await client.order()

    await link.connect()

    assert (await link.expect(CommandOrder)).command_id == command["id"]


async def test_commands_arrive_in_the_order_in_which_they_were_given(client: Client, peers: Peers) -> None:
    link = await known(client, peers)

    given = [(await client.order("collect-evidence"))["id"] for _ in range(20)]

    assert [(await link.expect(CommandOrder)).command_id for _ in given] == given


async def test_what_was_sent_and_not_confirmed_is_sent_again_in_a_new_session(
    client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    command = await client.order()
    await link.expect(CommandOrder)
    await link.disconnect()

    fresh = peers(Role.LINK)
    await fresh.connect()

    assert (await fresh.expect(CommandOrder)).command_id == command["id"]


async def test_an_accepted_command_is_not_sent_again(client: Client, peers: Peers) -> None:
    link = await known(client, peers)
    first = await client.order()
    order = await link.expect(CommandOrder)
    await link.send(CommandAccepted(order.command_id))
    page = await client.get(f"/v1/commands/{first['id']}")
    while page["state"] != "accepted":
        page = await client.get(f"/v1/commands/{first['id']}", wait_s=0.2)
    await link.disconnect()

    fresh = peers(Role.LINK)
    await fresh.connect()
    second = await client.order()

    assert (await fresh.expect(CommandOrder)).command_id == second["id"]


async def test_what_was_never_sent_in_time_is_expired_and_never_delivered(
    client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    await link.disconnect()
    page = await client.get("/v1/nodes/node-1")
    while page["connections"]["link"]["is_open"]:
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
    command = await client.order(time_to_live_s=0.05)

    finished = await client.finished(command["id"])
    assert (finished["state"], finished["sent"]) == ("expired", None)

    later = await client.order("reload")
    await link.connect()
    assert (await link.expect(CommandOrder)).command_id == later["id"]


async def test_what_may_have_arrived_is_not_called_expired_but_asked_for_again(
    client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    command = await client.order(time_to_live_s=3.0)
    await link.expect(CommandOrder)
    await link.disconnect()
    await asyncio.sleep(3.1)
    fresh = peers(Role.LINK)
    await fresh.connect()

    again = await fresh.expect(CommandOrder)
    assert (again.command_id, again.time_to_live_s) == (command["id"], 0.0)
    await fresh.send(CommandOutcome(again.command_id, Outcome.EXPIRED, "came too late"))

    assert (await client.finished(command["id"]))["state"] == "expired"


async def test_an_outcome_told_twice_is_stored_once_and_acknowledged_twice(
    client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    command = await client.order()
    order = await link.expect(CommandOrder)
    for _ in range(2):
        await link.send(CommandOutcome(order.command_id, Outcome.DONE, "once"))
        await link.expect(OutcomeAcknowledged)

    await client.finished(command["id"])
    events = await client.events()

    assert [type_ for type_, _, _ in events].count("command.done") == 1


async def test_a_second_other_outcome_changes_nothing_and_is_counted(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    command = await client.order()
    order = await link.expect(CommandOrder)
    for outcome in (Outcome.DONE, Outcome.FAILED):
        await link.send(CommandOutcome(order.command_id, outcome, ""))
        await link.expect(OutcomeAcknowledged)

    assert (await client.finished(command["id"]))["state"] == "done"
    assert server.metrics.value("command_contradictions_total") == 1


async def test_news_of_an_unknown_command_is_acknowledged_so_that_the_nanny_may_forget_it(
    client: Client, peers: Peers
) -> None:
    link = await known(client, peers)
    unknown = "0190a000-0000-7000-8000-000000000000"

    await link.send(CommandOutcome(unknown, Outcome.DONE, ""))

    assert (await link.expect(OutcomeAcknowledged)).command_id == unknown


async def test_a_link_cannot_end_another_nodes_command(client: Client, peers: Peers) -> None:
    link = await known(client, peers)
    command = await client.order()
    stranger = peers(Role.LINK, "node-2")
    await stranger.connect()

    await stranger.send(CommandOutcome(command["id"], Outcome.DONE, "not mine"))
    await stranger.expect(OutcomeAcknowledged)

    assert (await client.get(f"/v1/commands/{command['id']}"))["state"] == "sent"
    assert (await link.expect(CommandOrder)).command_id == command["id"]


@pytest.mark.slow
async def test_a_server_killed_at_any_point_loses_no_command_and_no_outcome(serve: Serve) -> None:
    """Start after start on the same file; each life ends without a word after one more step of the command."""
    async with aiohttp.ClientSession() as http:
        async with serve() as server:
            link = Peer(server.url, Role.LINK)
            await link.connect()
            await link.disconnect()
            command = await Client(server.url, http).order(time_to_live_s=3600)
        async with serve() as server:
            client = Client(server.url, http)
            assert (await client.get(f"/v1/commands/{command['id']}"))["state"] == "queued"
            link = Peer(server.url, Role.LINK)
            await link.connect()
            first = await link.expect(CommandOrder)
            await link.disconnect()
        async with serve() as server:
            client = Client(server.url, http)
            assert (await client.get(f"/v1/commands/{command['id']}"))["state"] == "sent"
            link = Peer(server.url, Role.LINK)
            await link.connect()
            second = await link.expect(CommandOrder)
            await link.send(CommandAccepted(command["id"]))
            await link.send(CommandOutcome(command["id"], Outcome.DONE, "done"))
            await link.expect(OutcomeAcknowledged)
            await link.disconnect()
        async with serve() as server:
            client = Client(server.url, http)
            finished = await client.get(f"/v1/commands/{command['id']}")
            link = Peer(server.url, Role.LINK)
            assert isinstance(await link.connect(), Established)
            await client.order("reload")
            third = await link.expect(CommandOrder)
            await link.disconnect()

    assert first.command_id == second.command_id == command["id"]
    assert second.time_to_live_s <= first.time_to_live_s
    assert finished["state"] == "done"
    assert third.command_id != command["id"]


async def test_an_outcome_of_a_command_whose_sending_was_forgotten_is_taken(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    """As after a database that was restored from before the sending."""
    link = await known(client, peers)
    command = await client.order()
    await link.expect(CommandOrder)
    from sqlalchemy import text

    async with server.database.writing() as session:
        await session.execute(text("UPDATE commands SET state = 'queued', sent_wall_at = NULL"))

    await link.send(CommandOutcome(command["id"], Outcome.DONE, "was done"))
    await link.expect(OutcomeAcknowledged)

    assert (await client.finished(command["id"]))["state"] == "done"


async def test_a_failing_database_costs_the_session_so_that_the_outcome_is_told_again(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    from sqlalchemy import text

    link = await known(client, peers)
    command = await client.order()
    await link.expect(CommandOrder)
    async with server.database.writing() as session:
        await session.execute(text("ALTER TABLE commands RENAME TO away"))
    await link.send(CommandOutcome(command["id"], Outcome.DONE, "done"))
    await link.ended()
    async with server.database.writing() as session:
        await session.execute(text("ALTER TABLE away RENAME TO commands"))
    await link.disconnect()

    established = await link.connect()

    assert isinstance(established, Established)
    assert not established.resumed
    await link.send(CommandOutcome(command["id"], Outcome.DONE, "done"))
    await link.expect(OutcomeAcknowledged)
    assert (await client.finished(command["id"]))["state"] == "done"


async def test_reports_do_not_wait_for_commands_of_others(client: Client, peers: Peers) -> None:
    link = await known(client, peers)
    busy = peers(Role.LINK, "busy")
    await busy.connect()
    for _ in range(30):
        await client.order("collect-evidence", "busy")

    await link.send(nanny_report("degraded"))

    assert (await client.node_in("DEGRADED"))["phase"] == "degraded"
    assert isinstance(await busy.expect(MessageReceived), MessageReceived)
