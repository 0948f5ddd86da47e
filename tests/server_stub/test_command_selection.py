"""Orders for many nodes at once, taking them back, and finding them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from nanny.protocol.messages import CommandAccepted, CommandOrder, CommandOutcome, Outcome, Registered, Role
from server_stub import commands as delivery
from server_stub.store import commands as store
from tests.support.server_peers import nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer
    from tests.support.server_peers import Client, Peer

    Peers = Callable[..., Peer]


@pytest.fixture
async def fleet(peers: Peers) -> dict[str, Peer]:
    """Four nodes with labels, three of them with a link."""
    links = {}
    for number, rack in enumerate(["r1", "r1", "r2", "r2"]):
        node_id = f"node-{number}"
        worker = peers(Role.WORKER, node_id)
        await worker.connect()
        await worker.send(registration(0, labels={"rack": rack, "gpu": "h200"}))
        await worker.expect(Registered)
        if number < 3:
            links[node_id] = peers(Role.LINK, node_id)
            await links[node_id].connect()
            await links[node_id].send(nanny_report())
    return links


async def order_many(client: Client, expect: int = 202, key: str | None = None, **more: Any) -> Any:
    body = {"kind": "restart", "reason": "a test", "actor": "tester"} | more
    headers = {} if key is None else {"Idempotency_Key": key}
    return await client.post("/v1/commands", body, expect, **headers)


async def delete(client: Client, path: str, expect: int, **query: str) -> Any:
    async with client.http.delete(f"{client.url}{path}", params=query) as response:
        answer = await response.json()
        assert response.status == expect, answer
        return answer


def nodes_of(answer: Any) -> list[str]:
    return [command["node_id"] for command in answer["commands"]]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"selector": "rack=r1"}, ["node-0", "node-1"]),
        ({"selector": "rack!=r1,gpu in (h200)"}, ["node-2", "node-3"]),
        ({"selector": "*"}, ["node-0", "node-1", "node-2", "node-3"]),
        ({"nodes": ["node-3", "node-0"]}, ["node-0", "node-3"]),
    ],
)
@pytest.mark.usefixtures("fleet")
async def test_each_selected_node_gets_a_command(
    client: Client, selection: dict[str, Any], expected: list[str]
) -> None:
    dry = await order_many(client, 200, dry_run=True, **selection)
    nothing = (await client.get("/v1/commands"))["commands"]
    answer = await order_many(client, **selection)
    again = await client.get("/v1/commands", batch=answer["batch_id"])

    assert [node["id"] for node in dry["nodes"]] == expected
    assert nothing == []
    assert (answer["count"], nodes_of(answer)) == (len(expected), expected)
    assert sorted(nodes_of(again)) == expected
    assert {command["target_incarnation"] for command in answer["commands"]} == {
        dry["nodes"][0]["target_incarnation"]
    }


@pytest.mark.usefixtures("fleet")
async def test_the_list_of_nodes_knows_selectors_too(client: Client) -> None:
    listed = await client.get("/v1/nodes", selector="rack in (r2),gpu")
    refused = await client.get("/v1/nodes", 422, selector="rack in r2")

    assert [node["id"] for node in listed["nodes"]] == ["node-2", "node-3"]
    assert refused["field"] == "selector"


async def test_the_links_that_are_there_get_it_at_once(client: Client, fleet: dict[str, Peer]) -> None:
    answer = await order_many(client, selector="*")
    by_node = {command["node_id"]: command["id"] for command in answer["commands"]}

    for node_id, link in fleet.items():
        order = await link.expect(CommandOrder)
        await link.send(CommandAccepted(order.command_id))
        await link.send(CommandOutcome(order.command_id, Outcome.DONE, ""))
        assert order.command_id == by_node[node_id]
        assert (await client.finished(order.command_id))["state"] == "done"
    assert (await client.get(f"/v1/commands/{by_node['node-3']}"))["state"] == "queued"


@pytest.mark.usefixtures("fleet")
async def test_the_same_key_makes_the_same_commands_whoever_would_be_selected_now(client: Client) -> None:
    first = await order_many(client, key="k", selector="rack=r1")
    async with client.http.patch(
        f"{client.url}/v1/nodes/node-1/labels", json={"rack": "elsewhere"}
    ) as response:
        assert response.status == 200
    again = await order_many(client, 200, key="k", selector="rack=r1")
    other = await order_many(client, 422, key="k", selector="rack=r2")

    assert again["batch_id"] == first["batch_id"]
    assert nodes_of(again) == nodes_of(first) == ["node-0", "node-1"]
    assert other["type"] == "urn:nodenanny:problem:idempotency-key-reused"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ({"selector": "rack=r9"}, "nothing-selected", "none of 4 nodes has labels like 'rack=r9'"),
        ({"nodes": ["node-0", "nobody"]}, "no-such-node", "no node, or more than one, is called 'nobody'"),
        ({}, "invalid", "nodes: expected exactly one of nodes and selector"),
        ({"nodes": ["a"], "selector": "b"}, "invalid", "nodes: expected exactly one"),
        ({"nodes": []}, "invalid", "nodes: expected a list of 1 to 2000"),
        ({"nodes": ["a", "a"]}, "invalid", "nodes: expected a list of 1 to 2000"),
        ({"selector": "rack r1"}, "invalid", "selector: at character 6: expected one of"),
        ({"selector": "*", "dry_run": "yes"}, "invalid", "dry_run: expected true or false"),
        ({"selector": "*", "node": "x"}, "invalid", "node: no such field"),
    ],
)
@pytest.mark.usefixtures("fleet")
async def test_what_selects_nobody_or_nonsense_is_refused_and_nobody_gets_anything(
    client: Client, more: dict[str, Any], code: str, said: str
) -> None:
    expect = 404 if code == "no-such-node" else 422
    refused = await order_many(client, expect, **more)

    assert refused["type"] == f"urn:nodenanny:problem:{code}"
    assert refused["detail"].startswith(said)
    assert (await client.get("/v1/commands"))["commands"] == []


@pytest.mark.usefixtures("fleet")
async def test_one_node_without_room_stops_the_order_for_all(client: Client) -> None:
    for _ in range(100):
        await client.order("collect-evidence", "node-3")

    refused = await order_many(client, 429, selector="*")

    assert refused["detail"] == "'node-3': 100 commands are not confirmed yet"
    assert (await client.get("/v1/commands", kind="restart"))["commands"] == []


@pytest.mark.usefixtures("fleet")
async def test_a_queued_command_can_be_taken_back_and_again_and_is_never_sent(
    client: Client, peers: Peers
) -> None:
    command = await client.order(node="node-3")
    gone = await delete(client, f"/v1/commands/{command['id']}", 200, actor="a person")
    again = await delete(client, f"/v1/commands/{command['id']}", 200)
    later = await client.order("reload", "node-3")
    link = peers(Role.LINK, "node-3")
    await link.connect()

    assert (gone["state"], gone["detail"]) == ("superseded", "cancelled by a person")
    assert again == gone
    assert (await link.expect(CommandOrder)).command_id == later["id"]


async def test_what_was_sent_is_not_taken_back(client: Client, fleet: dict[str, Peer]) -> None:
    command = await client.order(node="node-0")
    await fleet["node-0"].expect(CommandOrder)
    sent = await delete(client, f"/v1/commands/{command['id']}", 409)
    await fleet["node-0"].send(CommandOutcome(command["id"], Outcome.DONE, ""))
    await client.finished(command["id"])
    done = await delete(client, f"/v1/commands/{command['id']}", 409)
    nothing = await delete(client, "/v1/commands/none", 404)

    assert sent["type"] == "urn:nodenanny:problem:cannot-be-withdrawn"
    assert sent["detail"].startswith("it is sent, so the node may have carried it out already: wait for")
    assert done["detail"] == "it has ended already: done"
    assert nothing["type"] == "urn:nodenanny:problem:no-such-command"


@pytest.mark.usefixtures("fleet")
async def test_the_list_is_read_page_by_page_and_by_what_is_asked_for(client: Client) -> None:
    ordered = [(await client.order("reload", "node-3"))["id"] for _ in range(5)]
    await delete(client, f"/v1/commands/{ordered[0]}", 200)
    await order_many(client, selector="rack=r1")
    read = []
    page = await client.get("/v1/commands", node="node-3", limit=2)
    while True:
        read += [command["id"] for command in page["commands"]]
        if page["next"] is None:
            break
        page = await client.get("/v1/commands", node="node-3", limit=2, cursor=page["next"])

    async def count(**query: Any) -> int:
        return len((await client.get("/v1/commands", **query))["commands"])

    assert read == ordered[::-1]
    assert await count(kind="restart") == 2
    assert await count(state="superseded") == 1
    assert await count(node="node-3", state="open") == 4
    assert await count(state="queued,superseded", kind="reload") == 5
    assert await count(node="nobody") == 0
    assert len((await client.get("/v1/nodes/node-3/commands", state="unfinished"))["commands"]) == 4
    refused = await client.get("/v1/commands", 422, state="lost")
    assert refused["field"] == "state"


async def test_a_large_selection_goes_out_in_few_transactions(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    links = [peers(Role.LINK, f"node-{number}") for number in range(40)]
    for link in links:
        await link.connect()
    commits = 0

    @event.listens_for(server.database.engine.sync_engine, "commit")
    def count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    answer = await order_many(client, selector="!rack", target_incarnation=None)
    for link in links:
        await link.expect(CommandOrder)

    assert answer["count"] == 40
    assert commits < 20
    assert server.commands.count_open("node-0") == 1


async def test_what_no_nanny_confirms_is_sent_again(
    client: Client, fleet: dict[str, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CONFIRMED_WITHIN_S", 0.2)
    link = fleet["node-0"]
    command = await client.order(node="node-0")

    received = [(await link.expect(CommandOrder)).command_id for _ in range(3)]
    await link.send(CommandOutcome(command["id"], Outcome.DONE, ""))

    assert received == [command["id"]] * 3
    assert (await client.finished(command["id"]))["state"] == "done"


async def test_a_command_whose_commit_was_not_told_is_found_and_sent(
    server: RunningServer, fleet: dict[str, Peer]
) -> None:
    lost = server.commands.draft(
        node_id="node-1",
        kind="reload",
        reason="a test",
        actor="tester",
        time_to_live_s=60.0,
        target=None,
        parameters={},
        idempotency_key=None,
        fingerprint="",
    )
    async with server.database.writing() as session:
        await store.submit(session, [lost])

    await server.commands.load()

    assert (await fleet["node-1"].expect(CommandOrder)).command_id == lost.id


async def test_a_round_that_failed_is_made_again(
    server: RunningServer, client: Client, fleet: dict[str, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_S", 0.1)
    find = store.undelivered
    failures = iter([OSError("the disk is away"), OSError("still")])

    async def failing(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return await find(*arguments)

    monkeypatch.setattr(store, "undelivered", failing)
    command = await client.order(node="node-2")

    assert (await fleet["node-2"].expect(CommandOrder)).command_id == command["id"]
    assert server.commands.count_open("node-2") == 1
