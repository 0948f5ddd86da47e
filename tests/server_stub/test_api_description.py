"""What `/openapi.json` says: whole, of its own standard, and true of what the server really answers."""

from __future__ import annotations

import asyncio
import socket
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from nanny.protocol.messages import (
    CommandOrder,
    CommandOutcome,
    EvidenceSummary,
    Outcome,
    OutcomeAcknowledged,
    Role,
)
from server_stub.api import ROUTES
from server_stub.openapi import PROBLEM_TYPE, is_websocket, openapi, problem_codes
from server_stub.problems import STATUS
from server_stub.request_schemas import REQUEST_SCHEMAS
from server_stub.schemas import SCHEMAS
from tests.support.server_peers import life, nanny_report, registration, worker_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer
    from tests.support.server_peers import Client, Healthz, Peer

    Peers = Callable[..., Peer]

DOCUMENT = openapi(ROUTES)
HTTP_ROUTES = [route for route in ROUTES if not is_websocket(route)]


def name_of(route: Any) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", HTTP_ROUTES, ids=name_of)
def test_every_route_is_described(route: Any) -> None:
    assert route.query is not None
    assert "application/json" not in route.content_types or route.response in SCHEMAS
    assert route.body is None or route.body_type != "application/json" or route.body in REQUEST_SCHEMAS
    assert set(problem_codes(route)) <= STATUS.keys()
    assert route.method.lower() in DOCUMENT["paths"][route.path]


def test_no_operation_has_the_name_of_another() -> None:
    names = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]

    assert len(names) == len(set(names)) == len(HTTP_ROUTES)


@pytest.mark.parametrize("name", [*SCHEMAS, *REQUEST_SCHEMAS])
def test_every_schema_is_one_and_its_references_lead_somewhere(name: str) -> None:
    validator_of(f"#/components/schemas/{name}").is_valid(None)


def validator_of(pointer: str, document: Any = DOCUMENT) -> jsonschema_rs.Validator:
    components = {"components": document["components"], "$ref": pointer}
    return jsonschema_rs.Draft202012Validator(components, validate_formats=True)


def closed(document: Any) -> Any:
    """The same description, letting no field through that it doesn't name."""
    copy = deepcopy(document)
    schemas = copy["components"]["schemas"]
    for name in SCHEMAS:
        if name != "Problem":
            _close(schemas[name])
    return copy


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


CLOSED = closed(DOCUMENT)


async def test_the_server_serves_its_description(client: Client) -> None:
    assert await client.get("/openapi.json") == DOCUMENT


EVIDENCE = EvidenceSummary(
    bundle_id="b1",
    incarnation=life(1),
    reason="stalled",
    size_bytes=12,
    stalled_at="m:f",
    signature="pool:acquire < app:read",
)


async def settled(client: Client, path: str, is_there: Callable[[Any], object]) -> None:
    """Ask until the answer is as wanted: what a peer sent is taken in its own time."""
    async with asyncio.timeout(30):
        while True:
            if is_there(await client.get(path)):
                return
            await asyncio.sleep(0.02)


class Checked:
    """A client that holds each answer against the description of its route."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.asked: set[str] = set()

    async def __call__(self, method: str, path: str, body: Any = None, /, **names: str) -> Any:
        operation = CLOSED["paths"][path.partition("?")[0]][method.lower()]
        self.asked.add(f"{method} {path.partition('?')[0]}")
        url = self._client.url + path.format(**names)
        async with self._client.http.request(method, url, json=body) as response:
            answer = await response.json(content_type=None)
            described = operation["responses"][str(response.status)]
            schema = described["content"][response.content_type]["schema"]
            assert response.status < 400, answer
            validator_of(schema["$ref"], CLOSED).validate(answer)
            return answer


async def test_what_the_server_answers_is_what_it_says(
    server: RunningServer, client: Client, peers: Peers, healthz: Healthz
) -> None:
    ask = Checked(client)
    link, worker = peers(Role.LINK), peers(Role.WORKER)
    await link.connect()
    await link.send(nanny_report())
    await worker.connect()
    await worker.send(registration(healthz.port))
    await worker.send(worker_report())
    await client.node_in("READY")
    done = await ask("POST", "/v1/nodes/{node}/commands", {"kind": "reload", "reason": "r"}, node="node-1")
    order = await link.expect(CommandOrder)
    await link.send(CommandOutcome(order.command_id, Outcome.DONE, ""))
    await link.expect(OutcomeAcknowledged)
    await link.send(EVIDENCE)
    await settled(client, "/v1/evidence", lambda answer: answer["evidence"])
    await peers(Role.LINK, "away").connect()

    many = {"kind": "reload", "reason": "r", "selector": "*"}
    rollout = {"reason": "r", "nodes": ["node-1"]}
    await ask("POST", "/v1/commands", many)
    await ask("POST", "/v1/commands", many | {"dry_run": True})
    await ask("POST", "/v1/rollouts", rollout | {"dry_run": True})
    begun = await ask("POST", "/v1/rollouts", rollout)
    for path in (
        "/v1/nodes",
        "/v1/commands",
        "/v1/rollouts",
        "/v1/brakes",
        "/v1/events",
        "/v1/evidence",
        "/v1/hangs",
    ):
        await ask("GET", path)
    for path in (
        "/v1/nodes/{node}",
        "/v1/nodes/{node}/commands",
        "/v1/nodes/{node}/evidence",
        "/v1/nodes/{node}/explain",
    ):
        await ask("GET", path, node="node-1")
    await ask("POST", "/v1/nodes/{node}/evidence/{bundle}/request", node="node-1", bundle="b1")
    await ask("GET", "/v1/commands/{command}", command=done["id"])
    await ask("GET", "/v1/rollouts/{rollout}", rollout=begun["id"])
    await ask("POST", "/v1/rollouts/{rollout}/abort", {"reason": "r"}, rollout=begun["id"])
    await ask("POST", "/v1/brakes/{brake}/lift", {"reason": "r"}, brake="commands")
    await ask("PATCH", "/v1/nodes/{node}/labels", {"rack": "r7"}, node="node-1")
    await ask("PUT", "/v1/nodes/{node}/maintenance", {"on": True, "reason": "r"}, node="node-1")
    await ask("PUT", "/v1/maintenance", {"on": True, "reason": "r", "selector": "*"})
    await ask("GET", "/v1/nodes/{node}/explain", node="node-1")
    await ask("DELETE", "/v1/nodes/{node}/maintenance", node="node-1")
    await ask("POST", "/v1/nodes/{node}/close-worker-connection", node="node-1")
    await ask("DELETE", "/v1/nodes/{node}?force=true", node="away")
    for path in ("/livez", "/readyz", "/openapi.json"):
        await ask("GET", path)

    assert len(ask.asked) >= 25


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /v1/events?type=" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: nonsense\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_with_a_problem_document(
    server: RunningServer, said: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(said)
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
    finally:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    assert head.split()[1] == "400"
    assert PROBLEM_TYPE in head


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "no-such-path"),
        ("TRACE", "/livez", 405, "no-such-method"),
        ("POST", "/v1/nodes", 405, "no-such-method"),
        ("GET", "/v1/nodes/%00", 400, "malformed"),
        ("GET", "/v1/commands?node=%00", 400, "malformed"),
        ("GET", "/v1/nodes/%ff%fe", 404, "no-such-node"),
        ("GET", "/v1/nodes?page=2", 422, "invalid"),
        ("GET", "/v1/commands?limit=1&limit=2", 422, "invalid"),
        ("GET", "/v1/commands?kind=dance", 422, "invalid"),
        ("DELETE", "/v1/commands/x?actor=", 422, "invalid"),
    ],
)
async def test_every_refusal_has_its_code(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    from yarl import URL

    async with client.http.request(method, URL(client.url + path, encoded=True)) as response:
        problem = await response.json(content_type=PROBLEM_TYPE)

    assert (response.status, problem["type"]) == (status, f"urn:nodenanny:problem:{code}")


async def test_a_refused_method_is_told_which_there_are(client: Client) -> None:
    async with client.http.post(f"{client.url}/v1/nodes") as response:
        assert response.headers["Allow"] == "GET"
