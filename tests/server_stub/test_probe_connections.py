"""The prober's connections against real sockets: kept ones, closed ones, cut ones, addresses and names."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import socket
import struct
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from server_stub import name_lookup
from server_stub.clock import SystemClock
from server_stub.core.node_facts import ProbeClass
from server_stub.metrics import Metrics
from server_stub.probe_sockets import render_request
from server_stub.prober import Prober, ProbeSettings
from tests.support.server_peers import healthz_server, life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from server_stub.core.node_facts import ProbeFact
    from tests.support.server_peers import Healthz

PATIENT = ProbeSettings(budget_s=20.0, try_timeout_s=20.0, pause_s=0.05)
ONE_TRY = ProbeSettings(budget_s=5.0, try_timeout_s=5.0, pause_s=6.0)
OK_BODY = b'{"status": "ok", "incarnation": "%s"}' % str(life(1)).encode()
SO_ATTACH_FILTER = 26
BPF_RET = 0x06


@pytest.fixture
async def metrics() -> Metrics:
    return Metrics()


@asynccontextmanager
async def probing(metrics: Metrics, settings: ProbeSettings = PATIENT) -> AsyncIterator[Prober]:
    async with Prober(settings, SystemClock(), metrics) as prober:
        yield prober
        assert len(prober.sockets) == len(prober.kept), "a connection that nobody holds"


@asynccontextmanager
async def raw_server(
    speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that says whatever bytes the test wants; `speak` gets the connection's number, from 0."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        try:
            await speak(reader, writer, number - 1)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def counted(body: bytes = OK_BODY) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("way", ["end", "reset"])
async def test_a_kept_connection_that_was_closed_meanwhile_is_no_try(metrics: Metrics, way: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(counted())
        await reader.readuntil(b"\r\n\r\n")
        # The race: it closes an idle connection just as the next request is on its way.
        if number == 0 and way == "reset":
            writer.transport.abort()

    async with raw_server(speak) as port, probing(metrics) as prober:
        facts = [await prober.check("node-1", "127.0.0.1", port) for _ in range(2)]

    assert [fact.result for fact in facts] == [ProbeClass.OK, ProbeClass.OK]
    assert metrics.value("probe_tries_total") == 2


async def test_an_idle_connection_that_its_peer_closes_is_closed_here_too(metrics: Metrics) -> None:
    closing = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(counted())
        await closing.wait()

    async with raw_server(speak) as port, Prober(PATIENT, SystemClock(), metrics) as prober:
        await prober.check("node-1", "127.0.0.1", port)
        assert len(prober.sockets) == 1
        closing.set()
        await until(lambda: len(prober.sockets) == 0)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(OK_BODY), OK_BODY),
        b"HTTP/1.0 200 OK\r\n\r\n" + OK_BODY,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(OK_BODY), OK_BODY),
        b"HTTP/1.1 100 Continue\r\n\r\n" + counted(),
        counted() + b"and more",
    ],
    ids=["chunked", "to the end", "close", "interim", "excess"],
)
async def test_each_way_to_frame_an_answer_is_read(metrics: Metrics, said: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with raw_server(speak) as port, probing(metrics) as prober:
        facts = [await prober.check("node-1", "127.0.0.1", port) for _ in range(2)]

    assert [(fact.result, fact.incarnation) for fact in facts] == [(ProbeClass.OK, life(1))] * 2
    assert metrics.value("probe_tries_total") == 2


async def test_an_answer_in_single_bytes_is_read(metrics: Metrics) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(counted())):
            writer.write(counted()[position : position + 1])
            await asyncio.sleep(0)

    async with raw_server(speak) as port, probing(metrics) as prober:
        assert (await prober.check("node-1", "127.0.0.1", port)).result is ProbeClass.OK


async def test_an_answer_of_another_version_is_told_apart_from_a_strangers(metrics: Metrics) -> None:
    bodies = iter([b'{"status": "dreaming", "incarnation": "e/1"}', b'{"status": "UP"}'])

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(counted(next(bodies, b"{}")))

    async with raw_server(speak) as port, probing(metrics, ONE_TRY) as prober:
        newer = await prober.check("node-1", "127.0.0.1", port)
        stranger = await prober.check("node-1", "127.0.0.1", port)

    assert (newer.result, newer.where) == (ProbeClass.VERSION, "status 'dreaming'")
    assert stranger.result is ProbeClass.BAD_ANSWER


async def test_a_node_at_a_new_address_is_not_asked_at_its_old_one(metrics: Metrics) -> None:
    async with healthz_server() as old, healthz_server() as new, probing(metrics) as prober:
        await prober.check("node-1", "127.0.0.1", old.port)
        fact = await prober.check("node-1", "127.0.0.1", new.port)

        assert (fact.result, old.asked, new.asked) == (ProbeClass.OK, 1, 1)
        assert len(prober.sockets) == 1


async def test_a_node_that_is_forgotten_has_no_connection(metrics: Metrics, healthz: Healthz) -> None:
    async with probing(metrics) as prober:
        await prober.check("node-1", "127.0.0.1", healthz.port)
        prober.forget("node-1")

        assert len(prober.sockets) == 0


async def test_a_check_that_is_cancelled_tells_nobody_and_leaves_no_connection(
    metrics: Metrics, healthz: Healthz
) -> None:
    healthz.hangs = True
    told: list[ProbeFact] = []
    async with probing(metrics) as prober:
        check = prober.begin("node-1", "127.0.0.1", healthz.port, told.append)
        await until(lambda: healthz.asked)
        check.cancel()
        check.cancel()
        healthz.release()
        assert (len(prober.sockets), told) == (0, [])


async def test_a_prober_that_is_closed_leaves_its_checks_without_an_end(
    metrics: Metrics, healthz: Healthz
) -> None:
    healthz.hangs = True
    told: list[ProbeFact] = []
    async with Prober(PATIENT, SystemClock(), metrics) as prober:
        for number in range(20):
            prober.begin(f"node-{number}", "127.0.0.1", healthz.port, told.append)
        await until(lambda: healthz.asked == 20)

    assert (len(prober.sockets), told) == (0, [])


async def test_many_checks_at_once_are_answered_each(metrics: Metrics) -> None:
    async with healthz_server() as healthz, probing(metrics) as prober:
        for _ in range(3):
            facts = await asyncio.gather(
                *(prober.check(f"n{number}", "127.0.0.1", healthz.port) for number in range(300))
            )
            assert {fact.result for fact in facts} == {ProbeClass.OK}

    assert metrics.value("probes_total", result="ok") == 900


@contextmanager
def firewalled(listener: socket.socket) -> Iterator[None]:
    """Drop every packet to a listening port, as a firewall does: socket(7) SO_ATTACH_FILTER, `ret #0`."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    yield


async def test_a_port_behind_a_firewall_times_out_and_standing_connections_go_on(metrics: Metrics) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(counted())

    async with raw_server(speak) as port, probing(metrics, ONE_TRY) as prober:
        kept = await prober.check("kept", "127.0.0.1", port)
        with socket.socket(fileno=_listener_of(port)) as listener, firewalled(listener):
            still = await prober.check("kept", "127.0.0.1", port)
            fresh = await prober.check("fresh", "127.0.0.1", port)

    assert [kept.result, still.result, fresh.result] == [ProbeClass.OK, ProbeClass.OK, ProbeClass.TIMEOUT]


def _listener_of(port: int) -> int:
    """Give a descriptor of our own for the listening socket of this process at `port`."""
    for name in os.listdir("/proc/self/fd"):
        try:
            duplicate = os.dup(int(name))
        except OSError:
            continue
        try:
            with socket.socket(fileno=os.dup(duplicate)) as sock:
                is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if is_listening and sock.getsockname()[1:2] == (port,):
                    return os.dup(duplicate)
        except OSError:
            continue
        finally:
            os.close(duplicate)
    raise AssertionError(f"nobody listens at port {port}")


async def test_a_server_without_descriptors_blames_itself(metrics: Metrics, healthz: Healthz) -> None:
    async with probing(metrics) as prober:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            fact = await prober.check("node-1", "127.0.0.1", healthz.port)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        again = await prober.check("node-1", "127.0.0.1", healthz.port)

    assert (fact.result, fact.where) == (ProbeClass.SERVER_FAULT, "EMFILE")
    assert again.result is ProbeClass.OK


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_a_node_with_an_ipv6_address_is_asked_there(metrics: Metrics) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(counted())
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 on the loopback device")
    port = server.sockets[0].getsockname()[1]
    async with server, probing(metrics) as prober:
        assert (await prober.check("node-1", "::1", port)).result is ProbeClass.OK

    assert b"\r\nHost: [::1]:%d\r\n" % port in asked[0]


async def test_a_name_is_looked_up_once_and_asked_for_by_its_name(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    lookups: list[str] = []

    def resolve(host: str, port: int) -> tuple[name_lookup.Address, ...]:
        lookups.append(host)
        return ((socket.AF_INET, ("127.0.0.1", port)),)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + OK_BODY)

    monkeypatch.setattr(name_lookup, "resolve", resolve)
    async with raw_server(speak) as port, probing(metrics) as prober:
        for number in range(3):
            assert (await prober.check(f"n{number}", "gpu-node.example", port)).result is ProbeClass.OK

    assert lookups == ["gpu-node.example"]
    assert b"\r\nHost: gpu-node.example:%d\r\n" % port in asked[0]


async def test_a_resolver_that_hangs_is_told_as_dns_within_the_budget(
    metrics: Metrics, healthz: Healthz, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def resolve(_host: str, _port: int) -> tuple[name_lookup.Address, ...]:
        released.wait(60.0)
        return ()

    monkeypatch.setattr(name_lookup, "resolve", resolve)
    async with probing(metrics, ONE_TRY) as prober:
        facts = await asyncio.gather(
            *(prober.check(f"n{number}", f"n{number}.example", 80) for number in range(10)),
            prober.check("literal", "127.0.0.1", healthz.port),
        )
        released.set()

    assert [fact.result for fact in facts] == [ProbeClass.DNS] * 10 + [ProbeClass.OK]


async def test_a_name_that_was_known_outlives_its_resolver(
    metrics: Metrics, healthz: Healthz, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([((socket.AF_INET, ("127.0.0.1", healthz.port)),)])
    monkeypatch.setattr(name_lookup, "resolve", lambda _host, _port: next(answers, ()))
    monkeypatch.setattr(name_lookup, "TTL_S", 0.0)
    monkeypatch.setattr(name_lookup, "FAILED_TTL_S", 0.0)

    async with probing(metrics) as prober:
        for number in range(3):
            fact = await prober.check(f"n{number}", "gpu-node.example", healthz.port)
            assert fact.result is ProbeClass.OK


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "a/b", "user@host", "a?b", "\udcff"])
def test_what_is_no_host_gets_no_request(host: str) -> None:
    with pytest.raises(ValueError):
        render_request(host, 80)
