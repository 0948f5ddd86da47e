"""Maintenance by the API: what it takes, what it refuses, what it survives, and that it ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from nanny.protocol.messages import Registered, Role
from server_stub.clock import SystemClock, iso
from server_stub.explanation_shown import explanation_lines
from tests.support.server_peers import (
    PATIENCE_S,
    Client,
    Peer,
    life,
    nanny_report,
    registration,
    worker_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer
    from tests.server_stub.conftest import Serve
    from tests.support.server_peers import Healthz


async def put(
    client: Client, body: Any, expect: int = 200, path: str = "/v1/nodes/node-1/maintenance"
) -> Any:
    async with client.http.put(f"{client.url}{path}", json=body) as response:
        answer = await response.json(content_type=None)
        assert response.status == expect, answer
        return answer


async def end(client: Client, **query: str) -> Any:
    async with client.http.delete(f"{client.url}/v1/nodes/node-1/maintenance", params=query) as response:
        answer = await response.json(content_type=None)
        assert response.status == 200, answer
        return answer


async def changes_told(client: Client) -> list[dict[str, Any]]:
    events = (await client.get("/v1/events", limit=1000))["events"]
    return [event["data"] for event in events if event["type"].endswith("node.maintenance")]


async def is_up(make: Callable[..., Peer], healthz: Healthz, number: int = 1) -> tuple[Peer, Peer]:
    link, worker = make(Role.LINK, number=number), make(Role.WORKER, number=number)
    await link.connect()
    await link.send(nanny_report("running", number))
    await worker.connect()
    await worker.send(registration(healthz.port, number))
    await worker.expect(Registered)
    return link, worker


def in_s(seconds: float) -> str:
    return datetime.fromtimestamp(SystemClock().wall() + seconds, UTC).isoformat()


async def test_a_node_in_maintenance_is_probed_and_its_word_stays_whatever_it_does(
    server: RunningServer, client: Client, peers: Callable[..., Peer], healthz: Healthz
) -> None:
    link, _ = await is_up(peers, healthz)
    await client.node_in("READY")

    answer = await put(client, {"reason": "new fans", "actor": "alice"})

    assert (answer["state"], answer["changed"]) == ("MAINTENANCE", True)
    assert (answer["maintenance"]["by"], answer["maintenance"]["reason"]) == ("alice", "new fans")
    healthz.says("stalled")
    asked = healthz.asked
    await link.send(nanny_report("failed"))
    page = await client.node_in("MAINTENANCE")
    while healthz.asked <= asked or (page["probe"] or {})["result"] != "503-stalled":
        # A check that changes no row moves no revision: look again.
        page = await client.get("/v1/nodes/node-1", wait_s=0.2, revision=page["revision"])
    assert page["state"] == "MAINTENANCE"
    assert page["state_message"].startswith("in maintenance by alice since 20")
    assert page["state_message"].endswith(": new fans")
    assert server.metrics.value("nodes", state="STALLED") in {None, 0}


async def test_maintenance_survives_nanny_worker_and_server_and_ends_by_order(
    serve: Serve, healthz: Healthz
) -> None:
    made: list[Peer] = []

    async with serve() as server, aiohttp.ClientSession() as http:
        client = Client(server.url, http)

        def make(role: Role, number: int = 1) -> Peer:
            made.append(Peer(server.url, role, number=number))
            return made[-1]

        old = await is_up(make, healthz)
        await client.node_in("READY")
        await put(client, {"reason": "fans", "actor": "alice"})
        for peer in old:
            await peer.disconnect()
        healthz.says("ok", 2)
        _, worker = await is_up(make, healthz, 2)
        await worker.send(worker_report())

        assert (await client.get("/v1/nodes/node-1"))["state"] == "MAINTENANCE"
        for peer in made:
            await peer.disconnect()

    async with serve() as server, aiohttp.ClientSession() as http:
        client = Client(server.url, http)
        made.clear()
        await is_up(make, healthz, 2)
        page = await client.get("/v1/nodes/node-1")
        assert (page["state"], page["maintenance"]["by"]) == ("MAINTENANCE", "alice")

        answer = await end(client, actor="bob")

        assert (answer["changed"], answer["maintenance"]) == (True, None)
        page = await client.node_in("READY")
        assert page["incarnation"] == str(life(2))
        assert [(one["on"], one["by"], one["reason"]) for one in await changes_told(client)] == [
            (True, "alice", "fans"),
            (False, "bob", "fans"),
        ]
        assert (await end(client))["changed"] is False
        for peer in made:
            await peer.disconnect()


async def test_maintenance_ends_by_itself_although_nobody_says_anything(
    server: RunningServer, client: Client, peers: Callable[..., Peer], healthz: Healthz
) -> None:
    await is_up(peers, healthz)
    await client.node_in("READY")

    answer = await put(client, {"reason": "fans", "actor": "alice", "until": in_s(5.0)})
    page = await client.node_in("READY")

    assert answer["state"] == "MAINTENANCE"
    assert page["maintenance"] is None
    told = await changes_told(client)
    assert [(one["on"], one["by"]) for one in told] == [(True, "alice"), (False, "its time was over")]
    assert told[0]["until"] == answer["maintenance"]["until"]


async def test_the_same_order_twice_is_one_change_and_another_until_is_a_second(
    server: RunningServer, client: Client, peers: Callable[..., Peer], healthz: Healthz
) -> None:
    await is_up(peers, healthz)
    order = {"reason": "fans", "actor": "alice"}

    changed = [(await put(client, body))["changed"] for body in (order, order, {**order, "until": in_s(600)})]

    assert changed == [True, False, True]
    assert len(await changes_told(client)) == 2
    assert (await put(client, {"on": False}))["state"] != "MAINTENANCE"


async def test_a_selection_goes_into_maintenance_all_or_none(
    server: RunningServer, client: Client, peers: Callable[..., Peer]
) -> None:
    for node_id in ("node-1", "node-2", "node-3"):
        await peers(Role.LINK, node_id).connect()
    path = "/v1/maintenance"

    refused = await put(client, {"reason": "x", "nodes": ["node-1", "nobody"]}, 404, path)
    answer = await put(client, {"reason": "x", "nodes": ["node-1", "node-3"]}, path=path)

    assert "'nobody'" in refused["detail"]
    assert [(one["id"], one["state"]) for one in answer["nodes"]] == [
        ("node-1", "MAINTENANCE"),
        ("node-3", "MAINTENANCE"),
    ]
    states = {one["id"]: one["state"] for one in (await client.get("/v1/nodes"))["nodes"]}
    assert states["node-2"] != "MAINTENANCE"


async def test_what_an_order_cannot_say_is_refused_by_name(
    server: RunningServer, client: Client, peers: Callable[..., Peer]
) -> None:
    await peers(Role.LINK).connect()
    wrong: list[tuple[Any, str]] = [
        ({}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": 7}, "reason"),
        ({"reason": "x", "on": 1}, "on"),
        ({"reason": "x", "until": "tomorrow"}, "until"),
        ({"reason": "x", "until": 1795269731}, "until"),
        ({"reason": "x", "until": "2099-01-01T00:00:00"}, "until"),
        ({"reason": "x", "until": "2020-01-01T00:00:00Z"}, "until"),
        ({"reason": "x", "until": "9999-12-31T23:59:59Z"}, "until"),
        ({"reason": "x", "until": "0001-01-01T00:00:00+14:00"}, "until"),
        ({"on": False, "until": "2099-01-01T00:00:00Z"}, "until"),
        ({"reason": "x", "actor": ""}, "actor"),
        ({"reason": "x", "for_s": 60}, "for_s"),
    ]

    named = [(await put(client, body, 422))["field"] for body, _ in wrong]

    assert named == [field for _, field in wrong]
    assert (await client.get("/v1/nodes/node-1"))["maintenance"] is None


async def test_an_order_for_nobody_is_no_such_node(server: RunningServer, client: Client) -> None:
    answer = await put(client, {"reason": "x"}, 404)

    assert answer["type"] == "urn:nodenanny:problem:no-such-node"


@pytest.mark.parametrize("skew_s", [86400.0, -86400.0])
async def test_a_node_whose_clock_is_wrong_by_a_day_is_healthy_and_its_skew_is_shown(
    server: RunningServer, client: Client, peers: Callable[..., Peer], healthz: Healthz, skew_s: float
) -> None:
    _, worker = await is_up(peers, healthz)
    await worker.send(worker_report(wall_clock_s=SystemClock().wall() + skew_s))

    page = await client.node_in("READY")
    while page["clock_skew_s"] is None:
        page = await client.get("/v1/nodes/node-1", wait_s=PATIENCE_S, revision=page["revision"])

    assert page["state"] == "READY"
    assert abs(page["clock_skew_s"] - skew_s) < 60.0


async def test_the_explanation_names_evidence_and_next_steps_with_their_times(
    server: RunningServer, client: Client, peers: Callable[..., Peer], healthz: Healthz
) -> None:
    link, _ = await is_up(peers, healthz)
    await client.node_in("READY")
    healthz.says("stalled", stalled_at="pool:acquire")
    await client.node_in("STALLED")
    await link.send(nanny_report("running", next_step="SIGABRT, then SIGKILL", next_step_in_s=7.5))
    until = in_s(600.0)

    why = await client.get("/v1/nodes/node-1/explain")

    assert (why["state"], why["axes"]["health"]["state"]) == ("STALLED", "stalled")
    told = {(one["source"], one["axis"]): one for one in why["evidence"]}
    assert "in pool:acquire" in told["probe", "reachability"]["what"]
    assert told["probe", "reachability"]["since"] is not None
    steps = [step["what"] for step in why["next_steps"]]
    assert "the node is probed" in steps
    lines = explanation_lines(why)
    assert lines[0].startswith("node-1 is STALLED: stalled since 20")
    assert lines[0].endswith(" in pool:acquire")
    assert (await put(client, {"reason": "x", "until": until}))["state"] == "MAINTENANCE"
    why = await client.get("/v1/nodes/node-1/explain")
    (ends,) = [step for step in why["next_steps"] if step["what"] == "its maintenance ends"]
    assert abs(datetime.fromisoformat(ends["at"]).timestamp() - datetime.fromisoformat(until).timestamp()) < 3


async def test_an_explanation_of_nobody_is_no_such_node(server: RunningServer, client: Client) -> None:
    await client.get("/v1/nodes/nobody/explain", 404)


def test_an_instant_is_shown_to_the_second() -> None:
    assert iso(1795269731.9) == "2026-11-21T14:02:11Z"
