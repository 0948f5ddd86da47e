"""One check against real sockets: every class of result, the budget, fresh connections after a failure."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from server_stub.clock import SystemClock
from server_stub.core.healthz_answer import classify
from server_stub.core.http_response import BODY_LIMIT_BYTES
from server_stub.core.node_facts import ProbeClass
from server_stub.metrics import Metrics
from server_stub.prober import Prober, ProbeSettings
from tests.support.server_peers import healthz_server, life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.server_peers import Healthz

QUICK = ProbeSettings(budget_s=2.0, try_timeout_s=0.5, interval_s=15.0)
Speak = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


@pytest.fixture
async def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def prober(metrics: Metrics) -> AsyncIterator[Prober]:
    async with Prober(QUICK, SystemClock(), metrics) as opened:
        yield opened


@pytest.fixture
async def brief(metrics: Metrics) -> AsyncIterator[Prober]:
    """A prober whose budget is one try."""
    async with Prober(
        ProbeSettings(budget_s=5.0, try_timeout_s=5.0, pause_s=6.0), SystemClock(), metrics
    ) as opened:
        yield opened


@asynccontextmanager
async def raw_server(
    speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that says whatever bytes the test wants."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await speak(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_good_answer_ends_the_check_at_the_first_try(
    prober: Prober, healthz: Healthz, metrics: Metrics
) -> None:
    fact = await prober.check("node-1", "127.0.0.1", healthz.port)

    assert (fact.result, fact.status, fact.incarnation) == (ProbeClass.OK, "ok", life(1))
    assert metrics.value("probe_tries_total") == 1


async def test_a_stalled_worker_says_so_at_once_and_where(
    prober: Prober, healthz: Healthz, metrics: Metrics
) -> None:
    healthz.says("stalled", stalled_at="module:function")

    fact = await prober.check("node-1", "127.0.0.1", healthz.port)

    assert (fact.result, fact.where) == (ProbeClass.STALLED, "module:function")
    assert metrics.value("probe_tries_total") == 1


async def test_the_stand_ins_answer_is_final_only_when_the_budget_is_spent(
    prober: Prober, healthz: Healthz
) -> None:
    healthz.says("fallback")
    began_at = time.monotonic()

    fact = await prober.check("node-1", "127.0.0.1", healthz.port)

    assert fact.result is ProbeClass.FALLBACK
    assert healthz.asked > 1
    assert time.monotonic() - began_at < 10.0


async def test_a_worker_that_comes_back_within_the_budget_is_well(prober: Prober) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    checking = asyncio.create_task(prober.check("node-1", "127.0.0.1", port))
    await asyncio.sleep(0)
    async with healthz_server(port):
        fact = await checking

    assert fact.result is ProbeClass.OK


async def test_nobody_listening_is_refused_after_several_tries(prober: Prober, metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fact = await prober.check("node-1", "127.0.0.1", taken.getsockname()[1])

    assert fact.result is ProbeClass.REFUSED
    assert metrics.value("probe_tries_total") > 1


async def test_a_worker_that_accepts_and_never_answers_is_a_timeout_within_the_budget(
    prober: Prober, healthz: Healthz
) -> None:
    healthz.hangs = True
    began_at = time.monotonic()

    fact = await prober.check("node-1", "127.0.0.1", healthz.port)

    assert fact.result is ProbeClass.TIMEOUT
    assert time.monotonic() - began_at < QUICK.budget_s + 5.0


async def test_connections_are_kept_between_checks_and_fresh_after_a_failure(prober: Prober) -> None:
    connections: list[int] = []
    is_mute = False

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        me = len(connections) - 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            connections[me] += 1
            if is_mute and me == 0:
                await reader.read()  # the hung worker's connection
                return
            writer.write(http(b'{"status": "ok"}'))

    async with raw_server(speak) as port:
        for _ in range(3):
            assert (await prober.check("node-1", "127.0.0.1", port)).result is ProbeClass.OK
        assert connections == [3]

        is_mute = True
        fact = await prober.check("node-1", "127.0.0.1", port)

    assert fact.result is ProbeClass.OK
    assert connections[:2] == [4, 1]


async def test_a_reset_connection_has_its_class(prober: Prober) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with raw_server(speak) as port:
        assert (await prober.check("node-1", "127.0.0.1", port)).result is ProbeClass.RESET


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        http(b"not json"),
        http(b"[]"),
        http(b'{"status": "splendid"}'),
        http(b'{"status": "ok"}', "418 I'm a teapot"),
        http(b'{"status": "ok"}', "503 Service Unavailable"),
        http(b'{"status": "stalled"}'),
        http(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"),
        http(b'{"status": "ok", "node_id": "another"}'),
        http(b"[" * 50_000),
        http(b'{"status": "ok", "padding": "' + b"x" * BODY_LIMIT_BYTES + b'"}'),
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=[
        "ssh", "text", "list", "word", "teapot", "503 ok", "200 stalled", "redirect", "other node", "nested", "huge body",
        "huge header",
    ],
)  # fmt: skip
async def test_what_is_no_answer_of_ours_is_a_bad_answer(brief: Prober, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with raw_server(speak) as port:
        assert (await brief.check("node-1", "127.0.0.1", port)).result is ProbeClass.BAD_ANSWER


async def test_an_endless_body_costs_bounded_memory_and_time(prober: Prober) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_server(speak) as port:
        assert (await prober.check("node-1", "127.0.0.1", port)).result is ProbeClass.BAD_ANSWER


async def test_a_name_that_does_not_resolve_has_its_class(prober: Prober) -> None:
    assert (await prober.check("node-1", "no-such-host.invalid", 80)).result is ProbeClass.DNS


async def test_an_address_that_is_none_is_no_crash(prober: Prober) -> None:
    fact = await prober.check("node-1", "not/an address", 80)

    assert fact.result is ProbeClass.DNS


@pytest.mark.parametrize("told", [5, "", "no-slash", "e/0x1", None, ["e/1"]])
def test_an_incarnation_that_is_none_is_not_taken_for_one(told: Any) -> None:
    import json

    body = json.dumps({"status": "ok", "incarnation": told}).encode()

    assert classify(200, body, "node-1").incarnation is None
