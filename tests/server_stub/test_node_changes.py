"""Labels that people set, and nodes that are taken off the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import CommandOrder, CommandOutcome, Outcome, Registered, Role
from tests.support.server_peers import nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server_peers import Client, Peer

    Peers = Callable[..., Peer]


@pytest.fixture
async def worker(peers: Peers) -> Peer:
    peer = peers(Role.WORKER)
    await peer.connect()
    await peer.send(registration(0, labels={"rack": "r1", "gpu": "h200"}))
    await peer.expect(Registered)
    return peer


async def patch(client: Client, labels: Any, expect: int = 200) -> Any:
    url = f"{client.url}/v1/nodes/node-1/labels"
    async with client.http.patch(url, json=labels, params={"actor": "tester"}) as response:
        answer = await response.json()
        assert response.status == expect, answer
        return answer


async def delete(client: Client, expect: int = 200, node: str = "node-1", **query: str) -> Any:
    async with client.http.delete(f"{client.url}/v1/nodes/{node}", params=query) as response:
        answer = await response.json()
        assert response.status == expect, answer
        return answer


async def gone(client: Client) -> None:
    """Wait until the server knows that the node's connections are closed."""
    page = await client.get("/v1/nodes/node-1")
    while any(one and one["is_open"] for one in page["connections"].values()):
        page = await client.get("/v1/nodes/node-1", wait_s=20, revision=page["revision"])


async def test_labels_that_people_set_outlast_a_registration_and_stand_before_its_own(
    client: Client, worker: Peer
) -> None:
    answer = await patch(client, {"rack": "r7", "tier": "gold"})
    await worker.send(registration(0, 2, labels={"rack": "r2", "gpu": "b200"}))
    await worker.expect(Registered)
    page = await client.get("/v1/nodes/node-1")

    assert answer["labels"] == {"rack": "r7", "gpu": "h200", "tier": "gold"}
    assert page["labels"] == {"rack": "r7", "gpu": "b200", "tier": "gold"}
    assert page["labels_set"] == {"rack": "r7", "tier": "gold"}


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.usefixtures("worker")
async def test_null_takes_away_what_people_set_and_the_nodes_own_is_back(client: Client) -> None:
    await patch(client, {"rack": "r7", "tier": "gold"})
    answer = await patch(client, {"rack": None, "never-set": None})
    same = await patch(client, {"tier": "gold"})
    events = await client.events(type="node.labels")

    assert answer["labels"] == {"rack": "r1", "gpu": "h200", "tier": "gold"}
    assert same == answer
    assert [said for _, _, said in events] == [
        {"labels": {"rack": "r7", "tier": "gold"}, "by": "tester"},
        {"labels": {"tier": "gold"}, "by": "tester"},
    ]


@pytest.mark.usefixtures("worker")
async def test_a_patch_may_be_called_what_it_is(client: Client) -> None:
    url, headers = f"{client.url}/v1/nodes/node-1/labels", {"Content-Type": "application/merge-patch+json"}
    async with client.http.patch(url, data=b'{"tier": "gold"}', headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["labels_set"] == {"tier": "gold"}


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        ([], 400),
        ({"": "x"}, 422),
        ({"-a": "x"}, 422),
        ({"a b": "x"}, 422),
        ({"a": "b c"}, 422),
        ({"a": 1}, 422),
        ({"a": {"b": "c"}}, 422),
        ({"a": "x" * 64}, 422),
        ({f"a{number}": "x" for number in range(65)}, 422),
    ],
)
@pytest.mark.usefixtures("worker")
async def test_labels_that_no_selector_could_name_are_refused(
    client: Client, labels: Any, status: int
) -> None:
    await patch(client, labels, status)

    assert (await client.get("/v1/nodes/node-1"))["labels_set"] == {}


async def test_a_connected_node_is_not_deleted_unless_forced_and_comes_back_as_new(
    client: Client, worker: Peer, peers: Peers
) -> None:
    await patch(client, {"tier": "gold"})
    refused = await delete(client, 409)
    told = await delete(client, force="true", actor="tester", reason="sold")
    await worker.ended()
    await client.get("/v1/nodes/node-1", 404)
    link = peers(Role.LINK)
    await link.connect()
    page = await client.get("/v1/nodes/node-1")
    events = await client.events(type="node.deleted")

    assert refused["type"] == "urn:nodenanny:problem:node-connected"
    assert told == {"deleted": True, "id": "node-1", "name": "node-1"}
    assert (page["labels"], page["registered"]) == ({}, None)
    assert [said for _, _, said in events] == [{"name": "node-1", "by": "tester", "reason": "sold"}]


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
async def test_a_node_that_is_away_is_deleted_and_what_it_was_never_sent_is_over(
    client: Client, peers: Peers
) -> None:
    link = peers(Role.LINK)
    await link.connect()
    await link.send(nanny_report())
    sent = await client.order()
    await link.expect(CommandOrder)
    await link.disconnect()
    await gone(client)
    queued = await client.order("reload")
    await delete(client)
    after = await client.get(f"/v1/commands/{queued['id']}")
    listed = (await client.get("/v1/commands", node="node-1"))["commands"]
    again = peers(Role.LINK)
    await again.connect()
    resent = await again.expect(CommandOrder)
    await again.send(CommandOutcome(resent.command_id, Outcome.DONE, "had been done"))

    assert (after["state"], after["sent"]) == ("superseded", None)
    assert after["detail"].startswith("node deleted by api@")
    assert [command["id"] for command in listed] == [queued["id"], sent["id"]]
    assert resent.command_id == sent["id"], "what it may have done is asked for again when it is back"
    assert (await client.finished(sent["id"]))["state"] == "done"


async def test_what_is_not_there_cannot_be_deleted(client: Client) -> None:
    await delete(client, 404, "nobody")


@pytest.mark.usefixtures("worker")
async def test_force_is_true_or_false(client: Client) -> None:
    assert (await delete(client, 422, force="yes"))["field"] == "force"
