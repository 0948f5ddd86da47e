"""Rollouts against a real server and nodes that obey: a few at a time, on only while they come back well."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from sqlalchemy import text

from tests.support.obedient_nodes import obedient_nodes
from tests.support.server_peers import PATIENCE_S, Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from server_stub.main import RunningServer
    from tests.support.obedient_nodes import ObedientNode

    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]

BOTH_DATABASES = ["sqlite", "postgresql"]
QUICK = {"probe_interval_s": 0.5, "probe_budget_s": 2.0, "probe_try_timeout_s": 1.0}


async def ready(client: Client, nodes: list[ObedientNode]) -> None:
    for node in nodes:
        await client.node_in("READY", node.node_id)


async def begin(
    client: Client,
    expect: int = 202,
    key: str | None = None,
    **more: Any,
) -> Any:
    body = {"reason": "a new driver", "actor": "tester", "health_timeout_s": 60} | more
    headers = {} if key is None else {"Idempotency_Key": key}
    return await client.post("/v1/rollouts", body, expect, **headers)


async def until(client: Client, rollout_id: str, holds: Callable[[Any], object]) -> Any:
    """Follow a rollout until something holds of it, which is asserted."""
    page = await client.get(f"/v1/rollouts/{rollout_id}", revision=0)
    for _ in range(200):
        if holds(page) or page["is_finished"]:
            break
        page = await client.get(f"/v1/rollouts/{rollout_id}", wait_s=PATIENCE_S, revision=page["revision"])
    assert holds(page), page
    return page


def states(page: Any) -> list[str]:
    return [step["state"] for step in page["steps"]]


def in_flight(page: Any) -> int:
    return sum(step["state"] in {"ordered", "settling"} for step in page["steps"])


@pytest.mark.parametrize("database_kind", BOTH_DATABASES, indirect=True)
async def test_all_nodes_are_restarted_once_and_never_more_at_a_time(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 5, {"rack": "r1"}) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        rollout = await begin(client, selector="rack=r1", concurrency="40%")
        seen = [rollout]
        while not seen[-1]["is_finished"]:
            path = f"/v1/rollouts/{rollout['id']}"
            seen.append(await client.get(path, wait_s=PATIENCE_S, revision=seen[-1].get("revision", 0)))
        commands = (await client.get("/v1/commands", rollout=rollout["id"]))["commands"]

        assert (seen[-1]["state"], seen[-1]["ended"]) == ("done", 5)
        assert states(seen[-1]) == ["done"] * 5
        assert rollout["concurrency"] == 2
        assert max(in_flight(page) for page in seen) <= 2
        assert [len(node.effects) for node in nodes] == [1] * 5
        assert sorted(command["node_id"] for command in commands) == [f"node-{n}" for n in range(5)]


async def test_a_failure_aborts_and_the_rest_is_left_alone(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 3) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[1].fails = True
        rollout = await begin(client, selector="*")
        page = await until(client, rollout["id"], lambda page: page["is_finished"])

        assert page["state"] == "aborted"
        assert states(page) == ["done", "failed", "skipped"]
        assert page["steps"][1]["detail"] == "command failed: as the test wants it"
        assert [len(node.effects) for node in nodes] == [1, 0, 0]


async def test_a_node_that_does_not_come_back_well_is_a_failure(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 2) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[0].stays_down = True
        rollout = await begin(client, nodes=["node-0", "node-1"], health_timeout_s=1.0)
        page = await until(client, rollout["id"], lambda page: page["is_finished"])

        assert states(page) == ["failed", "skipped"]
        assert page["steps"][0]["detail"].startswith("not READY")
        assert nodes[1].effects == []


@pytest.mark.parametrize("database_kind", BOTH_DATABASES, indirect=True)
async def test_a_person_aborts_and_what_is_in_flight_comes_to_its_end(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 3) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[0].holds.clear()
        rollout = await begin(client, selector="*")
        await until(client, rollout["id"], lambda page: states(page)[0] == "ordered")
        said = {"reason": "wrong driver", "actor": "tester"}
        aborting = await client.post(f"/v1/rollouts/{rollout['id']}/abort", said, 200)
        nodes[0].holds.set()
        page = await until(client, rollout["id"], lambda page: page["is_finished"])
        again = await client.post(f"/v1/rollouts/{rollout['id']}/abort", said, 200)

        assert (aborting["state"], aborting["detail"]) == ("aborting", "aborted by tester: wrong driver")
        assert (page["state"], page["detail"]) == ("aborted", "aborted by tester: wrong driver")
        assert states(page) == ["done", "skipped", "skipped"]
        assert again["state"] == "aborted"


async def test_an_abort_takes_back_what_was_not_sent_yet(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 2) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        await nodes[0].stop()
        page = await client.get("/v1/nodes/node-0")
        while page["connections"]["link"]["is_open"]:
            page = await client.get("/v1/nodes/node-0", wait_s=PATIENCE_S, revision=page["revision"])
        rollout = await begin(client, selector="*", time_to_live_s=3600)
        await until(client, rollout["id"], lambda page: states(page)[0] == "ordered")
        await client.post(f"/v1/rollouts/{rollout['id']}/abort", {"reason": "enough"}, 200)
        page = await until(client, rollout["id"], lambda page: page["is_finished"])
        command = await client.get(f"/v1/commands/{page['steps'][0]['command_id']}")

        assert states(page) == ["failed", "skipped"]
        assert (command["state"], command["detail"]) == ("superseded", "its rollout was aborted")


@pytest.mark.slow
async def test_a_server_restarted_in_the_middle_goes_on_and_orders_nobody_twice(serve: Serve) -> None:
    async with aiohttp.ClientSession() as http, AsyncExitStack() as first_life:
        server = await first_life.enter_async_context(serve(**QUICK))
        async with obedient_nodes(server.url, 4) as nodes:
            client = Client(server.url, http)
            await ready(client, nodes)
            nodes[1].holds.clear()
            rollout = await begin(client, selector="*")
            await until(client, rollout["id"], lambda page: states(page)[1] == "ordered")
            await first_life.aclose()
            async with serve(**QUICK) as second:
                client = Client(second.url, http)
                for node in nodes:
                    await node.move(second.url)
                nodes[1].holds.set()
                page = await until(client, rollout["id"], lambda page: page["is_finished"])

                assert states(page) == ["done"] * 4
                assert [len(node.effects) for node in nodes] == [1] * 4


async def test_a_step_whose_commit_was_not_told_is_taken_up_and_not_made_twice(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 2) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        take_up, falls = server.commands.take_up, ["at the second step", "at the first"]

        def failing(records: Any) -> None:
            orders = list(records)
            if orders and falls:
                falls.pop()
                raise OSError("the answer to the commit was lost")
            take_up(orders)

        monkeypatch.setattr(server.commands, "take_up", failing)
        rollout = await begin(client, selector="*")
        page = await until(client, rollout["id"], lambda page: page["is_finished"])
        commands = (await client.get("/v1/commands", rollout=rollout["id"]))["commands"]

        assert states(page) == ["done", "done"]
        assert len(commands) == 2
        assert [len(node.effects) for node in nodes] == [1, 1]


async def test_nodes_that_are_gone_or_in_maintenance_are_skipped(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 3) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[0].holds.clear()
        rollout = await begin(client, selector="*")
        async with server.database.writing() as session:
            await session.execute(text("UPDATE nodes SET lifecycle = 'maintenance' WHERE id = 'node-1'"))
        await nodes[2].stop()
        path = "/v1/nodes/node-2"
        async with http.delete(f"{server.url}{path}", params={"force": "true"}) as response:
            assert response.status == 200
        nodes[0].holds.set()
        page = await until(client, rollout["id"], lambda page: page["is_finished"])

        assert states(page) == ["done", "skipped", "skipped"]
        assert [step["detail"] for step in page["steps"][1:]] == ["in maintenance", "deleted"]


async def test_two_rollouts_do_not_take_the_same_node(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 2) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[0].holds.clear()
        first = await begin(client, selector="*", key="once")
        same = await begin(client, 200, selector="*", key="once")
        refused = await begin(client, 409, nodes=["node-1"])

        assert same["id"] == first["id"]
        assert refused["type"] == "urn:nodenanny:problem:rollout-under-way"
        assert refused["rollouts"] == [first["id"]]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "nodes"),
        ({"nodes": ["a"], "selector": "b"}, "nodes"),
        ({"selector": "a b"}, "selector"),
        ({"selector": "*", "kind": "drain"}, "kind"),
        ({"selector": "*", "concurrency": 0}, "concurrency"),
        ({"selector": "*", "concurrency": "half"}, "concurrency"),
        ({"selector": "*", "concurrency": 1.5}, "concurrency"),
        ({"selector": "*", "failures_allowed": -1}, "failures_allowed"),
        ({"selector": "*", "health_timeout_s": 0}, "health_timeout_s"),
        ({"selector": "*", "dry_run": 1}, "dry_run"),
        ({"selector": "*", "reason": ""}, "reason"),
        ({"selector": "*", "target_incarnation": None}, "target_incarnation"),
    ],
)
async def test_a_rollout_that_cannot_be_is_refused_by_field(
    client: Client, more: dict[str, Any], field: str
) -> None:
    assert (await begin(client, 422, **more))["field"] == field


async def test_a_selection_of_nobody_is_refused(client: Client) -> None:
    refused = await begin(client, 422, selector="rack=r9")

    assert refused["detail"] == "none of 0 nodes has labels like 'rack=r9'"


async def test_a_dry_run_tells_who_it_would_be(serve: Serve) -> None:
    async with serve() as server, obedient_nodes(server.url, 2) as nodes, aiohttp.ClientSession() as http:
        client = Client(server.url, http)
        told = await begin(client, 200, selector="*", concurrency=5, dry_run=True)

        assert [node["id"] for node in told["nodes"]] == ["node-0", "node-1"]
        assert told["concurrency"] == 5
        assert (await client.get("/v1/rollouts"))["rollouts"] == []
        assert [node.effects for node in nodes] == [[], []]


async def test_of_two_rollouts_that_are_asked_for_at_once_one_is_refused(serve: Serve) -> None:
    async with (
        serve(**QUICK) as server,
        obedient_nodes(server.url, 2) as nodes,
        aiohttp.ClientSession() as http,
    ):
        client = Client(server.url, http)
        await ready(client, nodes)
        nodes[0].holds.clear()
        body = {"selector": "*", "reason": "a double click"}

        async def ask() -> int:
            async with http.post(f"{client.url}/v1/rollouts", json=body) as response:
                return response.status

        answers = await asyncio.gather(*(ask() for _ in range(5)))

        assert sorted(answers) == [202, 409, 409, 409, 409]
