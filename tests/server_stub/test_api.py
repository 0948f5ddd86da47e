"""The HTTP interface: what it refuses and how, idempotency, waiting, and that every route is guarded."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp
import pytest

from nanny.protocol.messages import CommandOrder, Role
from server_stub.api import ROUTES, SUBJECTS
from server_stub.authorisation import Authorisation, Permission
from server_stub.problems import STATUS
from tests.support.server_peers import Client, Peer, life, nanny_report, worker_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer

    Peers = Callable[..., Peer]


@pytest.fixture
async def node(client: Client, peers: Peers) -> Peer:
    link = peers(Role.LINK)
    await link.connect()
    await link.send(nanny_report())
    page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
    while page["nanny"] is None:
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
    return link


def test_every_route_has_its_handler() -> None:
    lacking = [
        route.handler
        for subject in SUBJECTS
        for route in subject.ROUTES
        if not callable(getattr(subject, route.handler, None))
    ]
    assert lacking == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_no_route_answers_a_web_page(client: Client, route: Any) -> None:
    path = re.sub(r"{\w+}", "x", route.path)
    headers = {"Origin": "http://evil.example"}

    async with client.http.request(route.method, f"{client.url}{path}", headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")

    assert (response.status, problem["type"]) == (403, "urn:nodenanny:problem:forbidden")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8470", 200),
        ("[::1]:8470", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
    ],
)
async def test_a_loopback_server_answers_to_loopback_names_only(
    client: Client, host: str, status: int
) -> None:
    async with client.http.get(f"{client.url}/livez", headers={"Host": host}) as response:
        assert response.status == status


def test_debug_routes_are_for_loopback_alone() -> None:
    from server_stub.problems import Problem

    class Request:
        headers: ClassVar[dict[str, str]] = {}
        host = "10.0.0.1:8470"

    Authorisation(host="10.0.0.1").allow(Request(), Permission.COMMAND)  # type: ignore[arg-type]
    with pytest.raises(Problem):
        Authorisation(host="10.0.0.1").allow(Request(), Permission.DEBUG)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/nodes", 405),
        ("GET", "/v1/nodes/nobody", 404),
        ("GET", "/v1/nodes/nobody/commands", 404),
        ("GET", "/v1/commands/none", 404),
        ("GET", "/v1/nodes/node-1?wait_s=61", 422),
        ("GET", "/v1/nodes/node-1?wait_s=nan", 422),
        ("GET", "/v1/nodes/node-1?wait_s=-1", 422),
        ("GET", "/v1/nodes/node-1?until=SPLENDID", 422),
        ("GET", "/v1/nodes/node-1?revision=x", 422),
        ("GET", "/v1/events?after=-1", 422),
        ("GET", "/v1/events?after=99999999999999999999", 422),
        ("GET", "/v1/events?limit=0", 422),
        ("GET", "/v1/commands?limit=1001", 422),
        ("POST", "/v1/nodes/node-1/commands", 400),
        ("GET", "/v1/link", 400),
    ],
)
async def test_what_cannot_be_is_a_problem_document(
    client: Client, node: Peer, method: str, path: str, status: int
) -> None:
    async with client.http.request(method, f"{client.url}{path}") as response:
        problem = await response.json(content_type="application/problem+json")

    assert (response.status, problem["status"]) == (status, status)
    assert problem["title"]


GOOD = {"kind": "restart", "reason": "why"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "kind"),
        ({"kind": "explode", "reason": "why"}, "kind"),
        ({"kind": ["restart"], "reason": "why"}, "kind"),
        ({"kind": "restart"}, "reason"),
        (GOOD | {"reason": "  "}, "reason"),
        (GOOD | {"reason": "x" * 1025}, "reason"),
        (GOOD | {"reason": "\ud800"}, "reason"),
        (GOOD | {"reason": "a\0b"}, "reason"),
        (GOOD | {"parameters": {"a": "\0"}}, "parameters"),
        (GOOD | {"actor": 5}, "actor"),
        (GOOD | {"time_to_live_s": 0}, "time_to_live_s"),
        (GOOD | {"time_to_live_s": True}, "time_to_live_s"),
        (GOOD | {"time_to_live_s": 86401}, "time_to_live_s"),
        (GOOD | {"time_to_live_s": "60"}, "time_to_live_s"),
        (GOOD | {"target_incarnation": "seven"}, "target_incarnation"),
        (GOOD | {"target_incarnation": 7}, "target_incarnation"),
        (GOOD | {"parameters": []}, "parameters"),
        (GOOD | {"parameters": {"a": {}}}, "parameters"),
        (GOOD | {"parameters": {"": 1}}, "parameters"),
        (GOOD | {"parameters": {"a": 10**30}}, "parameters"),
        (GOOD | {"parameters": {str(n): n for n in range(33)}}, "parameters"),
        (GOOD | {"surprise": 1}, "surprise"),
    ],
)
async def test_an_order_that_cannot_be_is_refused_by_field(
    client: Client, node: Peer, body: Any, field: str
) -> None:
    problem = await client.post("/v1/nodes/node-1/commands", body, expect=422)

    assert problem["field"] == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"[" * 60_000,
        b'{"kind": NaN}',
        b'{"kind": "reload", "kind": "stop", "reason": "x"}',
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(client: Client, node: Peer, body: bytes) -> None:
    url = f"{client.url}/v1/nodes/node-1/commands"
    async with client.http.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        assert response.status in {400, 422}
        assert (await response.json(content_type="application/problem+json"))["status"] == response.status


async def test_an_oversized_body_is_refused(client: Client, node: Peer) -> None:
    url = f"{client.url}/v1/nodes/node-1/commands"
    async with client.http.post(
        url, data=b'"' + b"x" * 600_000 + b'"', headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 413


async def test_a_form_is_no_order(client: Client, node: Peer) -> None:
    async with client.http.post(
        f"{client.url}/v1/nodes/node-1/commands", data={"kind": "restart"}
    ) as response:
        assert response.status == 400


async def test_the_same_key_makes_one_command(client: Client, node: Peer) -> None:
    first = await client.post("/v1/nodes/node-1/commands", GOOD, Idempotency_Key="k1")
    second = await client.post("/v1/nodes/node-1/commands", GOOD, 200, Idempotency_Key="k1")
    other = await client.post("/v1/nodes/node-1/commands", GOOD, Idempotency_Key="k2")
    both = await asyncio.gather(
        *(
            client.http.post(
                f"{client.url}/v1/nodes/node-1/commands", json=GOOD, headers={"Idempotency-Key": "k3"}
            )
            for _ in range(5)
        )
    )

    assert first["id"] == second["id"] != other["id"]
    assert len({(await response.json())["id"] for response in both}) == 1
    assert sorted(response.status for response in both) == [200, 200, 200, 200, 202]


async def test_the_same_key_for_another_request_is_refused(client: Client, node: Peer) -> None:
    await client.post("/v1/nodes/node-1/commands", GOOD, Idempotency_Key="k1")

    problem = await client.post(
        "/v1/nodes/node-1/commands", GOOD | {"reason": "another"}, 422, Idempotency_Key="k1"
    )

    assert problem["type"] == "urn:nodenanny:problem:idempotency-key-reused"


async def test_a_new_command_says_where_it_is(client: Client, node: Peer) -> None:
    async with client.http.post(f"{client.url}/v1/nodes/node-1/commands", json=GOOD) as response:
        command = await response.json()

    assert response.status == 202
    assert response.headers["Location"] == f"/v1/commands/{command['id']}"
    assert (await client.get(response.headers["Location"]))["id"] == command["id"]


async def test_current_is_the_life_that_the_nanny_told_of(client: Client, node: Peer) -> None:
    await node.send(nanny_report("running", 5))
    page = await client.get("/v1/nodes/node-1", wait_s=10, not_incarnation=str(life(1)))
    assert page["incarnation"] == str(life(5))

    command = await client.post("/v1/nodes/node-1/commands", GOOD)

    assert command["target_incarnation"] == str(life(5))
    assert (await node.expect(CommandOrder)).target == life(5)


async def test_current_of_a_node_that_told_no_life_is_a_conflict(client: Client, peers: Peers) -> None:
    link = peers(Role.LINK, "mute")
    await link.connect()

    problem = await client.post("/v1/nodes/mute/commands", GOOD, expect=409)

    assert problem["type"] == "urn:nodenanny:problem:incarnation-unknown"
    await client.post("/v1/nodes/mute/commands", GOOD | {"target_incarnation": None})


async def test_unfinished_commands_of_a_node_are_bounded(client: Client, node: Peer) -> None:
    for _ in range(100):
        await client.order("collect-evidence")

    problem = await client.order("collect-evidence", expect=429)

    assert problem["status"] == 429


async def test_a_wait_ends_with_the_change(client: Client, node: Peer) -> None:
    page = await client.get("/v1/nodes/node-1")
    waiting = asyncio.create_task(client.get("/v1/nodes/node-1", wait_s=50, revision=page["revision"]))
    fleet = asyncio.create_task(
        client.get("/v1/nodes", wait_s=50, revision=(await client.get("/v1/nodes"))["revision"])
    )
    await asyncio.sleep(0)

    await node.send(nanny_report("failed"))

    async with asyncio.timeout(20):
        assert (await waiting)["revision"] != page["revision"]
        await fleet


async def test_a_wait_ends_with_its_time_and_answers_all_the_same(client: Client, node: Peer) -> None:
    page = await client.get("/v1/nodes/node-1", wait_s=0.05, until="MAINTENANCE")

    assert page["name"] == "node-1"


async def test_events_are_waited_for_and_read_on_from_the_last(client: Client, peers: Peers) -> None:
    seen = await client.get("/v1/events")
    waiting = asyncio.create_task(client.get("/v1/events", wait_s=50, after=seen["after"]))
    await asyncio.sleep(0)

    await peers(Role.LINK, "late").connect()

    async with asyncio.timeout(20):
        news = await waiting
    assert [(event["type"], event["subject"]) for event in news["events"]] == [
        ("io.nodenanny.node.created", "late")
    ]
    assert news["after"] > seen["after"]


async def test_the_lists_hold_what_was_made(client: Client, node: Peer, peers: Peers) -> None:
    await peers(Role.LINK, "node-0").connect()
    made = [(await client.order("reload"))["id"] for _ in range(3)]
    other = (await client.order("reload", "node-0"))["id"]

    lists = {
        "nodes": [line["name"] for line in (await client.get("/v1/nodes"))["nodes"]],
        "node-1": [line["id"] for line in (await client.get("/v1/nodes/node-1/commands"))["commands"]],
        "all": [line["id"] for line in (await client.get("/v1/commands", limit=2))["commands"]],
    }

    assert lists == {"nodes": ["node-0", "node-1"], "node-1": made[::-1], "all": [other, made[2]]}


async def test_the_server_says_that_it_is_well(client: Client, node: Peer) -> None:
    assert await client.get("/livez") == {"status": "ok"}
    assert await client.get("/readyz") == {"status": "ok", "nodes": 1}
    async with client.http.get(f"{client.url}/metrics") as response:
        text = await response.text()
    assert 'nodenanny_server_connections{role="link"} 1' in text
    assert text.endswith("\n")


async def test_telemetry_is_passed_on_as_it_came(client: Client, peers: Peers) -> None:
    worker = peers(Role.WORKER)
    await worker.connect()
    telemetry = {
        "host": {"cpu": {"busy_ratio": 0.5}, "memory": {"used_bytes": 2**40}},
        "gpu": {"devices": [{"name": "H200"}]},
        "x": [None, True],
    }
    await worker.send(worker_report(telemetry=telemetry))

    page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
    while page["worker"] is None:
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])

    assert page["worker"]["telemetry"] == telemetry
    assert (page["cpu"], page["memory"], page["gpus"]) == (
        {"busy_ratio": 0.5},
        {"used_bytes": 2**40},
        [{"name": "H200"}],
    )


async def test_a_bug_in_a_route_is_a_problem_document_without_its_inside(
    server: RunningServer, client: Client, node: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_record: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(server.syncer, "judge", broken)

    problem = await client.get("/v1/nodes", expect=500)

    assert "secret" not in str(problem)
    assert server.metrics.value("http_requests_total", status="500") == 1


def test_every_problem_has_a_status_of_an_error() -> None:
    assert all(400 <= status < 600 and title for status, title in STATUS.values())


async def test_a_client_that_never_ends_its_body_is_answered(
    client: Client, node: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server_stub import routing

    monkeypatch.setattr(routing, "BODY_TIMEOUT_S", 0.1)

    async def endless() -> Any:
        yield b'{"kind":'
        await asyncio.sleep(3600)

    url = f"{client.url}/v1/nodes/node-1/commands"
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as http,
        http.post(url, data=endless(), headers={"Content-Type": "application/json"}) as response,
    ):
        assert response.status == 400
