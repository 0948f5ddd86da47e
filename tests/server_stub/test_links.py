"""Links and workers on real WebSockets: who gets in, what a message does, what hostile peers cost."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from nanny.protocol.codec import encode_frame
from nanny.protocol.messages import CommandOrder, Ping, Registered, Role
from nanny.protocol.session_events import Established, PeerClosed, SessionRefused
from server_stub import link_socket
from tests.support.server_peers import (
    Client,
    Peer,
    hello,
    life,
    nanny_report,
    registration,
    worker_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from server_stub.main import RunningServer
    from tests.support.server_peers import Healthz

    Peers = Callable[..., Peer]
    Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


async def test_a_registration_alone_does_not_make_a_node_ready(
    client: Client, peers: Peers, healthz: Healthz
) -> None:
    healthz.hangs = True
    worker = peers(Role.WORKER)
    await worker.connect()
    await worker.send(registration(healthz.port))
    await worker.expect(Registered)

    page = await client.get("/v1/nodes/node-1")

    assert (page["state"], page["registered_incarnation"]) == ("PENDING", str(life(1)))


async def test_a_registered_node_is_ready_after_its_first_good_probe_which_comes_at_once(
    serve: Serve, healthz: Healthz
) -> None:
    async with (
        serve(probe_interval_s=30.0, offline_timeout_s=100.0) as server,
        aiohttp.ClientSession() as http,
    ):
        worker = Peer(server.url, Role.WORKER)
        await worker.connect()
        await worker.send(registration(healthz.port))
        page = await Client(server.url, http).node_in("READY")
        await worker.disconnect()

    assert (page["probe"]["result"], page["incarnation"]) == ("ok", str(life(1)))


async def test_a_worker_that_is_starting_is_pending_and_probed_again_soon(
    client: Client, peers: Peers, healthz: Healthz
) -> None:
    healthz.says("starting")
    worker = peers(Role.WORKER)
    await worker.connect()
    await worker.send(registration(healthz.port))
    page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
    while page["probe"] is None or page["probe"]["status"] != "starting":
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
    assert page["state"] == "PENDING"

    healthz.says("ok")
    await client.node_in("READY")


async def test_the_nannys_word_reaches_the_page(client: Client, peers: Peers, healthz: Healthz) -> None:
    link, worker = peers(Role.LINK), peers(Role.WORKER)
    await link.connect()
    await link.send(nanny_report())
    await worker.connect()
    await worker.send(registration(healthz.port))
    await worker.send(worker_report(loop_lag_s=0.25))
    await client.node_in("READY")

    await link.send(nanny_report("backoff", restarts={"crash": 3}))

    page = await client.node_in("PENDING")
    assert page["state_reason"] == "NannyBackoff"
    assert page["nanny"]["restarts"] == {"crash": 3}
    assert page["worker"]["loop_lag_s"] == 0.25
    assert page["cpu"] == {"busy_ratio": 0.035}


async def test_a_node_stopped_by_order_says_who_stopped_it(
    client: Client, peers: Peers, healthz: Healthz
) -> None:
    link, worker = peers(Role.LINK), peers(Role.WORKER)
    await link.connect()
    await worker.connect()
    await worker.send(registration(healthz.port))
    await client.node_in("READY")

    await link.send(
        nanny_report("down", None, desired="down", desired_by="root by nannyctl", desired_reason="new disk")
    )

    page = await client.node_in("NOT_READY")
    assert page["lifecycle"] == "stopped"
    assert page["state_message"].startswith("stopped by root by nannyctl since 20")
    assert page["state_message"].endswith(": new disk")


async def test_a_new_life_is_pending_until_it_is_probed(
    client: Client, peers: Peers, healthz: Healthz
) -> None:
    link, worker = peers(Role.LINK), peers(Role.WORKER)
    await link.connect()
    await link.send(nanny_report())
    await worker.connect()
    await worker.send(registration(healthz.port))
    await client.node_in("READY")

    healthz.hangs = True
    await worker.disconnect()
    await link.send(nanny_report("starting", 2))
    await client.node_in("PENDING")
    successor = peers(Role.WORKER, "node-1", 2)
    await successor.connect()
    await successor.send(registration(healthz.port, 2))
    await successor.expect(Registered)
    page = await client.get("/v1/nodes/node-1")
    assert page["state"] == "PENDING"

    healthz.says("ok", 2)
    healthz.hangs = False
    healthz.release()
    page = await client.node_in("READY")
    assert page["incarnation"] == str(life(2))


async def test_a_worker_of_an_earlier_life_is_refused_while_the_nanny_runs_a_later(peers: Peers) -> None:
    link, stale, epoch = peers(Role.LINK), peers(Role.WORKER, "node-1", 1), peers(Role.WORKER, "node-1", 9)
    await link.connect()
    await link.send(nanny_report("running", 2))

    refused = await stale.connect()

    assert isinstance(refused, SessionRefused)
    assert refused.code == "stale-incarnation"
    assert isinstance(await epoch.connect(), Established)


async def test_a_second_machine_with_the_same_node_id_is_refused_with_both_named(
    server: RunningServer, peers: Peers
) -> None:
    original, clone = peers(Role.LINK), peers(Role.LINK)
    await original.connect()
    clone.hello = hello(Role.LINK, machine_id="machine-of-the-clone", node_name="clone")

    refused = await clone.connect()

    assert isinstance(refused, SessionRefused)
    assert refused.code == "identity-conflict"
    assert "machine-of-node-1" in refused.reason
    assert "machine-of-the-clone" in refused.reason


async def test_made_up_nodes_are_bounded_and_known_ones_stay_welcome(serve: Serve) -> None:
    async with serve(nodes_limit=2) as server:
        known = [Peer(server.url, Role.LINK, f"n{number}") for number in range(2)]
        for link in known:
            assert isinstance(await link.connect(), Established)
        one_more, again = Peer(server.url, Role.LINK, "n2"), Peer(server.url, Role.WORKER, "n1")
        refused, welcome = await one_more.connect(), await again.connect()
        for peer in (*known, one_more, again):
            await peer.disconnect()

    assert isinstance(refused, SessionRefused)
    assert refused.code == "too-many-nodes"
    assert isinstance(welcome, Established)


async def test_a_link_on_the_workers_endpoint_is_refused(server: RunningServer, peers: Peers) -> None:
    lost = peers(Role.LINK)
    lost._url = f"{server.url}/v1/worker"

    refused = await lost.connect()

    assert isinstance(refused, SessionRefused)
    assert refused.code == "wrong-endpoint"


async def test_a_newer_connection_takes_the_older_ones_place(client: Client, peers: Peers) -> None:
    older, newer = peers(Role.LINK), peers(Role.LINK)
    await older.connect()
    await newer.connect()

    closed = await older.expect(PeerClosed)

    assert closed.code == "replaced"
    await newer.send(nanny_report("degraded"))
    page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
    while page["phase"] != "degraded":
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
    assert page["connections"]["link"]["is_open"]


async def test_a_session_survives_its_connection_and_loses_no_message(client: Client, peers: Peers) -> None:
    link = peers(Role.LINK)
    await link.connect()
    await link.disconnect()
    command = await client.order()

    resumed = await link.connect()

    assert isinstance(resumed, Established)
    assert resumed.resumed
    order = await link.expect(CommandOrder)
    assert order.command_id == command["id"]


async def test_a_close_by_the_server_ends_only_the_workers_connection(
    client: Client, peers: Peers, healthz: Healthz
) -> None:
    link, worker = peers(Role.LINK), peers(Role.WORKER)
    await link.connect()
    await link.send(nanny_report())
    await worker.connect()
    await worker.send(registration(healthz.port))
    await client.node_in("READY")

    await client.post("/v1/nodes/node-1/close-worker-connection")
    await worker.expect(PeerClosed)
    await worker.ended()
    await client.post("/v1/nodes/node-1/close-worker-connection", expect=409)

    await worker.disconnect()
    again = await worker.connect()
    assert isinstance(again, Established)
    page = await client.node_in("READY")
    assert page["connections"]["link"]["is_open"]


async def test_a_peer_that_never_speaks_is_dropped_in_time(server: RunningServer, client: Client) -> None:
    async with client.http.ws_connect(f"{server.url}/v1/link") as socket:
        message = await socket.receive(timeout=10)

    assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
    assert server.metrics.value("connections_refused_total", reason="no-hello") == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xdf\xff\xff\xff\xff" * 20,
        b"\x91" * 5000,
        encode_frame(Ping(1), version=1),
        encode_frame(hello(Role.LINK), version=7),
        b"\x00" * 200_000,
    ],
    ids=["empty", "never-used", "http", "huge map", "nested", "no hello", "version", "zeros"],
)
async def test_garbage_costs_the_peer_its_connection_and_nobody_else(
    server: RunningServer, client: Client, peers: Peers, garbage: bytes
) -> None:
    good = peers(Role.LINK, "good")
    await good.connect()

    async with client.http.ws_connect(f"{server.url}/v1/link") as socket:
        await socket.send_bytes(garbage)
        while True:
            message = await socket.receive(timeout=10)
            if message.type is not aiohttp.WSMsgType.BINARY:
                break

    await good.send(nanny_report("degraded"))
    assert (await client.node_in("DEGRADED", "good"))["phase"] == "degraded"


async def test_garbage_after_hello_ends_the_connection_and_is_counted(
    server: RunningServer, peers: Peers
) -> None:
    link = peers(Role.LINK)
    await link.connect()

    await link.send_raw(b"\xc1 garbage")

    closed = await link.expect(PeerClosed)
    assert closed.code == "protocol-violation"
    assert server.metrics.value("protocol_violations_total", role="link") == 1


async def test_a_frame_over_the_limit_ends_the_connection(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    link = peers(Role.LINK)
    await link.connect()

    await link.send_raw(b"\x00" * (300 * 1024))

    await link.ended()
    assert isinstance(await peers(Role.LINK).connect(), Established)


async def test_a_text_frame_ends_the_connection(server: RunningServer, client: Client) -> None:
    async with client.http.ws_connect(f"{server.url}/v1/worker") as socket:
        await socket.send_str("hello")
        message = await socket.receive(timeout=10)

    assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}


async def test_a_connection_cut_in_the_middle_of_a_frame_leaves_the_server_well(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /v1/link HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    writer.write(b"\x82\xfe\x10\x00\x01\x02\x03\x04only the beginning")
    await writer.drain()
    writer.transport.abort()

    assert isinstance(await peers(Role.LINK).connect(), Established)
    await client.get("/livez")


async def test_a_message_that_is_not_the_peers_to_send_ends_the_connection(peers: Peers) -> None:
    worker = peers(Role.WORKER)
    await worker.connect()

    await worker.send_raw(encode_frame(nanny_report(), version=1))

    assert (await worker.expect(PeerClosed)).code == "protocol-violation"


async def test_large_reports_are_taken_at_a_bounded_rate(
    server: RunningServer, client: Client, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_socket, "BYTES_PER_SECOND", 20_000)
    worker = peers(Role.WORKER, "large")
    await worker.connect()
    began_at = asyncio.get_running_loop().time()

    for seq in range(1, 7):
        await worker.send(worker_report(seq, telemetry={"text": "x" * 4000, "more": ["y" * 4000] * 3}))
    await client.get("/livez")
    async with asyncio.timeout(60):
        while server.metrics.value("messages_received_total", type="worker-report") < 6:  # noqa: ASYNC110  (a counter)
            await asyncio.sleep(0.01)

    # Two of them make a second's worth; what they wait for is the clock, so this never comes too early.
    assert asyncio.get_running_loop().time() - began_at > 1.0


async def test_a_flood_of_reports_is_slowed_down_and_the_api_still_answers(
    server: RunningServer, client: Client, peers: Peers
) -> None:
    flooding = peers(Role.WORKER, "flood")
    await flooding.connect()

    for seq in range(1, 1001):
        await flooding.send(worker_report(seq))
    await client.get("/livez")

    assert server.metrics.value("messages_received_total", type="worker-report") < 1000


async def test_a_peer_that_stops_reading_is_given_up_without_harm(serve: Serve) -> None:
    async with serve(keepalive_interval_s=0.2) as server, aiohttp.ClientSession() as http:
        link = Peer(server.url, Role.LINK)
        await link.connect()
        assert link._reader is not None
        link._reader.cancel()
        client = Client(server.url, http)
        page = await client.get("/v1/nodes/node-1", wait_s=10, revision=0)
        while page["connections"]["link"]["is_open"]:
            page = await client.get("/v1/nodes/node-1", wait_s=10, revision=page["revision"])
        await link.disconnect()

    assert server.metrics.value("protocol_violations_total", role="link") == 1


async def test_a_peer_that_pings_and_never_reads_is_dropped(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_socket, "SEND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(link_socket, "FRAMES_PER_SECOND", 1_000_000)
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", server.port))
        await loop.sock_sendall(
            peer,
            b"GET /v1/link HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        assert b"101" in await loop.sock_recv(peer, 4096)
        await loop.sock_sendall(peer, masked(0x82, encode_frame(hello(Role.LINK), version=1)))

        ended = False
        async with asyncio.timeout(20):
            while not ended:
                try:
                    await loop.sock_sendall(peer, masked(0x89, b"x" * 125) * 100)
                except ConnectionError:
                    ended = True

    assert ended


def masked(first_byte: int, payload: bytes) -> bytes:
    """A WebSocket frame from a client whose mask is all zeros. RFC 6455, 5.2."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first_byte]) + length + b"\0\0\0\0" + payload
