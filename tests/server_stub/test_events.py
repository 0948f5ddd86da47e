"""The event log as clients read it: CloudEvents, filters, what is gone, streams; and that it stays within bounds."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import server_stub
from nanny.protocol.messages import Role
from server_stub import event_retention, event_stream
from server_stub import events as log
from server_stub.changes import EVENTS
from server_stub.clock import SystemClock
from server_stub.event_retention import EventRetention
from server_stub.events import EVENT_TYPES
from server_stub.log import configure
from server_stub.store import events
from server_stub.store.events import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from server_stub.main import RunningServer
    from tests.support.server_peers import Client, Peer

    Peers = Callable[..., Peer]
    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[RunningServer]:
    """A server that keeps events of 1970: what is dropped here, the tests drop."""
    async with serve(events_kept_s=1e12) as started:
        yield started


async def happen(server: RunningServer, *types: str, node: str | None = None, wall_at: float = 100.0) -> None:
    async with server.database.writing() as session:
        told = [
            {"wall_at": wall_at + number, "type": type_, "node_id": node, "detail": {"number": number}}
            for number, type_ in enumerate(types)
        ]
        await log.append_many(session, told)
    server.changes.mark([EVENTS])


async def drop_all_but(server: RunningServer, limit: int) -> None:
    retention = EventRetention(
        database=server.database,
        clock=SystemClock(),
        log=configure("error"),
        metrics=server.metrics,
        kept_s=1e12,
        limit=limit,
    )
    await retention.drop()


async def test_an_event_is_a_cloud_event(server: RunningServer, client: Client, peers: Peers) -> None:
    await peers(Role.LINK, "n1").connect()
    (seen,) = (await client.get("/v1/events"))["events"]
    time = seen.pop("time")

    assert seen.pop("id").endswith("-1")
    assert seen == {
        "specversion": "1.0",
        "source": "urn:nodenanny:server",
        "type": "io.nodenanny.node.created",
        "subject": "n1",
        "nodename": "n1",
        "datacontenttype": "application/json",
        "data": {"name": "n1"},
        "seq": 1,
    }
    assert time.endswith("Z")
    assert "T" in time


async def test_the_same_event_has_the_same_id_in_each_answer(server: RunningServer, client: Client) -> None:
    await happen(server, "node.state", "node.state")

    ids = [[one["id"] for one in (await client.get("/v1/events"))["events"]] for _ in range(2)]

    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"type": "node."}, [1, 2]),
        ({"type": "io.nodenanny.node."}, [1, 2]),
        ({"type": "command.done,node.created"}, [1, 3]),
        ({"node": "n1"}, [4]),
        ({"node": "nobody"}, []),
        ({"since": "1970-01-01T00:01:41Z", "until": "1970-01-01T00:01:43Z"}, [2, 3]),
        ({"since": "1970-01-01T01:01:42+01:00"}, [3, 4]),
        ({"order": "desc", "limit": "2"}, [4, 3]),
        ({"order": "desc", "before": "3"}, [2, 1]),
    ],
)
async def test_filters_narrow_what_is_listed(
    server: RunningServer, client: Client, query: dict[str, Any], expected: list[int]
) -> None:
    await happen(server, "node.created", "node.state", "command.done")
    await happen(server, "brake.on", node="n1", wall_at=103.0)

    found = (await client.get("/v1/events", **query))["events"]

    assert [one["seq"] for one in found] == expected


@pytest.mark.parametrize(
    "query",
    [
        "type=Node",
        "type=",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "order=up",
        "node=",
        "afer=3",
        "after=1&after=2",
    ],
)
async def test_a_filter_that_cannot_be_is_refused_not_passed_over(client: Client, query: str) -> None:
    await client.get(f"/v1/events?{query}", expect=422)


async def test_a_reader_moves_on_over_what_it_does_not_want(server: RunningServer, client: Client) -> None:
    await happen(server, "node.state", "node.state")

    page = await client.get("/v1/events", type="command.")

    assert (page["events"], page["after"]) == ([], 2)


async def test_a_full_page_is_read_on_from_its_last_event(server: RunningServer, client: Client) -> None:
    await happen(server, "node.state", "brake.on", "node.state", "node.state")

    first = await client.get("/v1/events", type="node.", limit=2)
    second = await client.get("/v1/events", type="node.", limit=2, after=first["after"])

    assert [[one["seq"] for one in page["events"]] for page in (first, second)] == [[1, 3], [4]]


async def test_a_wait_passes_over_other_events(server: RunningServer, client: Client) -> None:
    waiting = asyncio.create_task(client.get("/v1/events", wait_s=50, type="brake."))
    await happen(server, "node.state")
    await asyncio.sleep(0)
    await happen(server, "brake.on")

    async with asyncio.timeout(30):
        assert [one["seq"] for one in (await waiting)["events"]] == [2]


async def test_who_comes_back_too_late_is_told_where_the_log_begins(
    server: RunningServer, client: Client
) -> None:
    await happen(server, *["node.state"] * 6)
    await drop_all_but(server, 2)

    problem = await client.get("/v1/events", after=2, expect=410)
    resumed = await client.get("/v1/events", after=problem["oldest"] - 1)
    fresh = await client.get("/v1/events")

    assert (problem["type"], problem["oldest"], problem["newest"]) == (
        "urn:nodenanny:problem:events-gone",
        5,
        6,
    )
    assert [one["seq"] for one in resumed["events"]] == [5, 6]
    assert fresh == resumed
    assert server.metrics.value("events_dropped_total") == 4


async def test_a_number_of_another_log_is_not_waited_for(server: RunningServer, client: Client) -> None:
    await happen(server, "node.state")

    problem = await client.get("/v1/events", after=2, wait_s=50, expect=410)

    assert problem["newest"] == 1


async def test_what_is_within_its_bounds_is_left_alone(server: RunningServer, client: Client) -> None:
    await happen(server, *["node.state"] * 3)

    await drop_all_but(server, 3)

    assert len((await client.get("/v1/events"))["events"]) == 3
    assert server.metrics.value("events_dropped_total") == 0


async def test_a_server_drops_by_itself_what_is_too_old(serve: Serve) -> None:
    async with serve(events_kept_s=1e12) as before:
        await happen(before, *["node.state"] * 3)

    async with serve(events_kept_s=60.0) as after, asyncio.timeout(30):
        while True:
            async with after.database.reading() as session:
                there = await events.kept(session)
            if there.oldest == 3:
                break
            await asyncio.sleep(0.02)

    assert there.newest == 3


async def test_the_log_is_dropped_in_small_transactions(
    server: RunningServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_retention, "BATCH", 4)
    monkeypatch.setattr(event_retention, "PAUSE_S", 0.0)
    sizes: list[int] = []
    drop_before = events.drop_before

    async def watched(*arguments: Any) -> int:
        sizes.append(await drop_before(*arguments))
        return sizes[-1]

    monkeypatch.setattr(events, "drop_before", watched)
    await happen(server, *["node.state"] * 11)

    await drop_all_but(server, 1)

    assert sizes == [4, 4, 2]
    assert [one["seq"] for one in (await client.get("/v1/events"))["events"]] == [11]


# Streams


async def frames(response: aiohttp.ClientResponse, number: int) -> list[dict[str, str]]:
    """Read so many events of a stream, each as its fields."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(30):
        while len(found) < number:
            line = (await response.content.readline()).decode().rstrip("\n")
            if line == "" and fields:
                found.append(fields)
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
    return found


STREAM = {"Accept": "text/event-stream"}


async def test_a_stream_tells_events_as_they_happen(server: RunningServer, client: Client) -> None:
    await happen(server, "node.created")
    async with client.http.get(f"{client.url}/v1/events", headers=STREAM) as response:
        (first,) = await frames(response, 1)
        await happen(server, "node.state")
        (second,) = await frames(response, 1)

    assert response.content_type == "text/event-stream"
    assert [first["id"], second["id"]] == ["1", "2"]
    assert second["event"] == "io.nodenanny.node.state"
    assert json.loads(second["data"])["seq"] == 2


async def test_a_stream_is_taken_up_from_the_last_event_id(server: RunningServer, client: Client) -> None:
    await happen(server, *["node.state"] * 4)

    headers = STREAM | {"Last-Event-ID": "2"}
    async with client.http.get(f"{client.url}/v1/events", headers=headers) as response:
        found = await frames(response, 2)

    assert [frame["id"] for frame in found] == ["3", "4"]


async def test_a_stream_that_missed_events_is_refused_with_the_reason(
    server: RunningServer, client: Client
) -> None:
    await happen(server, *["node.state"] * 4)
    await drop_all_but(server, 1)

    headers = STREAM | {"Last-Event-ID": "1"}
    async with client.http.get(f"{client.url}/v1/events", headers=headers) as response:
        assert response.status == 410


async def test_a_silent_stream_says_how_far_it_is(
    server: RunningServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "SILENCE_S", 0.05)
    await happen(server, "brake.on")

    async with client.http.get(f"{client.url}/v1/events?type=node.", headers=STREAM) as response:
        (frame,) = await frames(response, 1)

    assert frame == {"id": "1"}


async def test_a_stream_ends_with_the_server(server: RunningServer, client: Client) -> None:
    async with client.http.get(f"{client.url}/v1/events", headers=STREAM) as response:
        await response.content.readline()
        server.changes.close()
        async with asyncio.timeout(30):
            rest = await response.content.read()

    assert b"data" not in rest


# The registry


def appended_types() -> set[str]:
    """Every type that the server's code appends, `command.*` for one that ends in a state."""
    found: set[str] = set()
    for file in Path(server_stub.__file__).parent.rglob("*.py"):
        source = file.read_text()
        if "events" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="events"), attr="append"), args=[_, _, type_, *_]
                ):
                    found |= literal(type_)
                case ast.Dict():
                    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                    if {"wall_at", "type", "node_id"} <= set(keys):
                        found |= literal(node.values[keys.index("type")])
    return found


def literal(node: ast.expr) -> set[str]:
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return {f"{text}*"}
        case ast.IfExp(body=body, orelse=orelse):
            return literal(body) | literal(orelse)
        case _:
            return set()


def test_every_type_that_is_appended_is_registered() -> None:
    unknown = {
        type_
        for type_ in appended_types()
        if not any(
            known == type_ or (type_[-1] == "*" and known.startswith(type_[:-1])) for known in EVENT_TYPES
        )
    }

    assert unknown == set()
    assert {"node.created", "node.state", "command.*"} <= appended_types()


def test_every_state_of_a_command_has_its_type() -> None:
    from server_stub.core.command_lifecycle import CommandState

    assert {f"command.{state}" for state in CommandState} <= EVENT_TYPES.keys()


async def test_everything_that_a_server_tells_is_registered_with_its_names(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    link = peers(Role.LINK)
    await link.connect()
    await client.order("reload")

    async with server.database.reading() as session:
        told = await events.read(session, Query())

    assert told != []
    assert [one.type for one in told if not set(one.detail) <= set(EVENT_TYPES[one.type][1])] == []
