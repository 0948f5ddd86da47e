"""Evidence at the server: summaries kept once, hangs grouped over the fleet, bundles fetched on request."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import CommandOrder, CommandOutcome, EvidenceSummary, Outcome, Role
from server_stub import evidence as evidence_shell
from tests.support.server_peers import Client, Peer, life, nanny_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer

    Peers = Callable[..., Peer]

BUNDLE = "20260501T120000.123456Z-1-stalled"


def summary(bundle: str = BUNDLE, signature: str | None = "pool:acquire < app:read", **changed: Any) -> Any:
    fields: dict[str, Any] = {
        "bundle_id": bundle,
        "incarnation": life(1),
        "reason": "stalled",
        "size_bytes": 1000,
        "stalled_at": "pool:acquire:88",
        "signature": signature,
    }
    return EvidenceSummary(**(fields | changed))


async def settled(client: Client, path: str, want: Callable[[Any], bool]) -> Any:
    """Ask until the answer is as wanted: what a peer sent is taken in its own time."""
    async with asyncio.timeout(30):
        while not want(answer := await client.get(path)):  # noqa: ASYNC110  (its own time)
            await asyncio.sleep(0.02)
    return answer


@pytest.fixture
async def link(peers: Peers) -> Peer:
    made = peers(Role.LINK)
    await made.connect()
    await made.send(nanny_report())
    return made


async def test_a_summary_is_kept_once_however_often_it_comes(client: Client, link: Peer) -> None:
    for _ in range(3):
        await link.send(summary())
    await link.send(summary("20260501T120001.123456Z-1-lost", reason="lost"))

    found = await settled(client, "/v1/nodes/node-1/evidence", lambda answer: len(answer["evidence"]) >= 2)

    assert [one["bundle"] for one in found["evidence"]] == ["20260501T120001.123456Z-1-lost", BUNDLE]
    assert found["evidence"][1] | {"time": None} == {
        "bundle": BUNDLE,
        "node_id": "node-1",
        "node": "node-1",
        "time": None,
        "incarnation": str(life(1)),
        "reason": "stalled",
        "stalled_at": "pool:acquire:88",
        "signature": found["evidence"][1]["signature"],
        "stack": ["pool:acquire", "app:read"],
        "size_bytes": 1000,
        "wanted": None,
        "is_here": False,
    }


async def test_the_same_line_on_many_nodes_is_one_hang(client: Client, peers: Peers) -> None:
    for number in range(4):
        link = peers(Role.LINK, f"node-{number}")
        await link.connect()
        await link.send(summary(signature=f"pool:acquire < task-{number}:run < asyncio.events:_run"))
        if number == 3:
            await link.send(
                summary("20260501T120002.123456Z-1-stalled", "dns:look_up", stalled_at="dns:look_up:1")
            )

    answer = await settled(
        client, "/v1/hangs", lambda answer: sum(hang["bundles"] for hang in answer["hangs"]) == 5
    )

    assert [(hang["nodes"], hang["stack"]) for hang in answer["hangs"]] == [
        (4, ["pool:acquire", "task-#:run"]),
        (1, ["dns:look_up"]),
    ]
    first = answer["hangs"][0]
    assert sorted(first["node_names"]) == ["node-0", "node-1", "node-2", "node-3"]
    assert first["first_seen"] <= first["last_seen"]
    of_one_kind = await client.get(f"/v1/evidence?signature={first['signature']}")
    assert len(of_one_kind["evidence"]) == 4


async def test_a_look_at_a_healthy_worker_is_no_hang(client: Client, link: Peer) -> None:
    await link.send(summary(reason="ordered by alice"))

    found = await settled(client, "/v1/evidence", lambda answer: len(answer["evidence"]) == 1)

    assert found["evidence"][0]["signature"] is None
    assert (await client.get("/v1/hangs"))["hangs"] == []


async def test_a_bundle_is_fetched_from_its_node_on_request(
    client: Client, link: Peer, server: RunningServer
) -> None:
    await link.send(summary())
    await settled(client, "/v1/evidence", lambda answer: len(answer["evidence"]) == 1)
    path = f"{client.url}/v1/nodes/node-1/evidence/{BUNDLE}"

    async with client.http.put(f"{path}/content", data=b"x") as unasked:
        assert (unasked.status, (await unasked.json())["type"]) == (
            409,
            "urn:nodenanny:problem:not-requested",
        )
    async with client.http.get(f"{path}/content") as absent:
        assert (absent.status, (await absent.json())["type"]) == (404, "urn:nodenanny:problem:not-here")
    async with client.http.post(f"{path}/request") as asked:
        assert asked.status == 202
        command = await asked.json()
    order = await link.expect(CommandOrder)
    assert (order.command_id, order.kind, order.parameters) == (
        command["id"],
        "upload-evidence",
        {"bundle": BUNDLE},
    )
    content = b"a gzipped tar, said to be" * 10_000
    async with client.http.put(f"{path}/content", data=content) as put:
        assert put.status == 201
    await link.send(CommandOutcome(order.command_id, Outcome.DONE, "sent"))
    ended = await client.get(f"/v1/commands/{order.command_id}", wait_s=20)
    async with client.http.get(f"{path}/content") as fetched:
        assert (fetched.status, fetched.content_type, await fetched.read()) == (
            200,
            "application/gzip",
            content,
        )

    assert ended["state"] == "done"
    assert (await client.get("/v1/evidence"))["evidence"][0]["is_here"]


async def test_a_bundle_that_is_too_large_leaves_nothing(
    client: Client, link: Peer, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_shell, "UPLOAD_LIMIT_BYTES", 1000)
    await link.send(summary())
    await settled(client, "/v1/evidence", lambda answer: len(answer["evidence"]) == 1)
    path = f"{client.url}/v1/nodes/node-1/evidence/{BUNDLE}"
    async with client.http.post(f"{path}/request"):
        pass

    async with client.http.put(f"{path}/content", data=bytes(70_000)) as put:
        problem = await put.json()

    assert (put.status, problem["type"]) == (413, "urn:nodenanny:problem:too-large")
    assert list(server.evidence.directory.iterdir()) == []


async def test_the_oldest_bundles_make_room(
    client: Client, link: Peer, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.evidence, "_limit_bytes", 250_000)
    names = [f"2026050{day}T120000.123456Z-1-stalled" for day in range(1, 5)]
    for name in names:
        await link.send(summary(name))
    await settled(client, "/v1/evidence", lambda answer: len(answer["evidence"]) == 4)
    for name in names:
        path = f"{client.url}/v1/nodes/node-1/evidence/{name}"
        async with client.http.post(f"{path}/request"):
            pass
        async with client.http.put(f"{path}/content", data=bytes(100_000)) as put:
            assert put.status == 201

    here = {one["bundle"] for one in (await client.get("/v1/evidence"))["evidence"] if one["is_here"]}

    assert here == set(names[2:])
    assert len(list(server.evidence.directory.iterdir())) == 2


async def test_an_unknown_bundle_is_a_problem_that_says_so(client: Client, link: Peer) -> None:
    async with client.http.post(f"{client.url}/v1/nodes/node-1/evidence/nothing/request") as asked:
        problem = await asked.json()

    assert (asked.status, problem["type"]) == (404, "urn:nodenanny:problem:no-such-bundle")


async def test_two_uploads_of_a_bundle_at_once_are_each_whole(
    client: Client, link: Peer, server: RunningServer
) -> None:
    await link.send(summary())
    await settled(client, "/v1/evidence", lambda answer: len(answer["evidence"]) == 1)
    path = f"{client.url}/v1/nodes/node-1/evidence/{BUNDLE}"
    async with client.http.post(f"{path}/request"):
        pass
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        yield b"first" * 1000
        begun.set()
        await go_on.wait()
        yield b"first" * 1000

    async def put(data: Any) -> int:
        async with client.http.put(f"{path}/content", data=data) as response:
            return response.status

    slow = asyncio.create_task(put(slowly()))
    await begun.wait()
    quick = await put(b"second" * 1000)
    go_on.set()

    assert (quick, await slow) == (201, 201)
    async with client.http.get(f"{path}/content") as fetched:
        assert await fetched.read() == b"first" * 2000
    assert [one.suffixes for one in server.evidence.directory.iterdir()] == [[".tar", ".gz"]]


async def test_what_a_killed_server_left_half_written_is_removed(server: RunningServer) -> None:
    server.evidence.directory.mkdir(parents=True)
    old, new = (server.evidence.directory / f".{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))

    await server.evidence.tidy()

    assert list(server.evidence.directory.iterdir()) == [new]


async def test_a_node_that_tells_of_ever_more_evidence_is_not_listened_to(
    client: Client, link: Peer, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_shell, "SUMMARIES_AN_HOUR", 3)
    for second in range(10, 18):
        await link.send(summary(f"20260501T1200{second}.123456Z-1-stalled"))

    async with asyncio.timeout(30):
        while server.metrics.value("evidence_refused_total") < 5:  # noqa: ASYNC110  (taken in its own time)
            await asyncio.sleep(0.02)

    assert len((await client.get("/v1/evidence"))["evidence"]) == 3
