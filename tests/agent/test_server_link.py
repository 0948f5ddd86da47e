"""The worker's connection against servers that misbehave in every way: each costs a counted line and a wait."""

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from agent.config import AgentConfig
from agent.identity import find_identity
from agent.registration import RegistrationSource
from agent.server_dial import Dialler, endpoint_of, tls_context
from agent.server_link import ServerLink
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
from nanny.common.backoff import Backoff
from nanny.protocol.codec import encode_frame
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import (
    Close,
    Hello,
    Refused,
    Registered,
    Registration,
    Role,
    SpecOffer,
    Welcome,
    WorkerReport,
)
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
)
from tests.support.agent_process import listening
from tests.support.link_server import order
from tests.support.server_peers import worker_report

Serve = Callable[[web.WebSocketResponse, web.Request], Awaitable[None]]
PATIENCE_S = 30.0

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


uvloop.run(asyncio.sleep(0))  # its first loop makes a pipe that it keeps for the process
on_both_loops = pytest.mark.parametrize(
    "run", [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]
)
Run = Callable[[Coroutine[Any, Any, None]], None]


class Untouched:
    def touch(self) -> None:
        pass


class Worker:
    """A link under test and what it would register."""

    def __init__(self, url: str, pool: ProbePool, timeout_s: float, ca_file: str | None) -> None:
        identity = find_identity("node-1", {}, None)
        self.addresses: tuple[str, ...] = ()
        self.source = RegistrationSource(AgentConfig(), identity, ("127.0.0.1", 8080))
        self.changes = 0
        self.link = ServerLink(
            Dialler(url, ca_file, pool, timeout_s),
            identity,
            self._registration,
            Backoff(0.01, 0.02),
            SessionConfig(hello_timeout_s=timeout_s),
        )
        self.link.on_change = self._changed

    async def counted(self, event: str, times: int = 1) -> None:
        """Wait until something was counted so often."""
        async with asyncio.timeout(PATIENCE_S):
            while self.link.counts[event] < times:  # noqa: ASYNC110  # the link tells of no such event
                await asyncio.sleep(0.005)

    async def registered(self) -> None:
        """Wait until it is registered."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.link.is_registered:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def _registration(self, server: tuple[str, int] | None) -> Registration:
        registration = self.source.registration(server)
        return Registration(
            **{name: getattr(registration, name) for name in registration.__slots__ if name != "addresses"},
            addresses=self.addresses or registration.addresses,
        )

    def _changed(self) -> None:
        self.changes += 1


@asynccontextmanager
async def worker(url: str, timeout_s: float = 5.0, ca_file: str | None = None) -> AsyncIterator[Worker]:
    pool = ProbePool(first=launch_probe_server())
    await pool.start()
    started = Worker(url, pool, timeout_s, ca_file)
    running = asyncio.create_task(started.link.run(Untouched()))
    try:
        yield started
    finally:
        if running.done():
            running.result()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await pool.close()


@asynccontextmanager
async def server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that upgrades and then does what the test says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        upgraded = web.WebSocketResponse(timeout=0.1)
        await upgraded.prepare(request)
        with suppress(ConnectionError):
            await serve(upgraded, request)
        return upgraded

    async with http_server(answer, tls) as url:
        yield url


@asynccontextmanager
async def http_server(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/v1/worker", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
    finally:
        await runner.cleanup()


async def welcome(webs: web.WebSocketResponse, keepalive_interval_s: float = 0.05) -> LinkSession:
    """Answer Hello as a server should; give the session."""
    config = SessionConfig(keepalive_interval_s=keepalive_interval_s, report_interval_s=0.5)
    session = LinkSession(Role.SERVER, Role.WORKER, config)
    session.connection_accepted("session-1", 0.0)
    first = await webs.receive_bytes()
    assert any(isinstance(event, Established) for event in session.receive_frame(first, 0.0))
    await flush(webs, session)
    return session


async def flush(webs: web.WebSocketResponse, session: LinkSession) -> None:
    for frame in session.frames_to_send():
        await webs.send_bytes(frame)


class Serving:
    """A server that registers workers, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.webs: web.WebSocketResponse | None = None
        self.session: LinkSession | None = None

    async def serve(self, webs: web.WebSocketResponse, _: web.Request) -> None:
        self.webs = webs
        self.session = session = await welcome(webs, keepalive_interval_s=60.0)
        async for message in webs:
            for event in session.receive_frame(message.data, 0.0):
                self.heard.put_nowait(event.message if isinstance(event, MessageReceived) else event)
                if isinstance(event, MessageReceived) and isinstance(event.message, Registration):
                    session.send(Registered("node-1"))
            await flush(webs, session)

    async def hear(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                one = await self.heard.get()
                assert not isinstance(one, SessionFailed), one
                if isinstance(one, kind):
                    return one

    async def close(self, code: str) -> None:
        assert self.session is not None
        assert self.webs is not None
        self.session.close(code, "for a test")
        await flush(self.webs, self.session)


async def test_it_registers_reports_and_takes_the_servers_interval() -> None:
    serving = Serving()
    async with server(serving.serve) as url, worker(url) as started:
        registration = await serving.hear(Registration)
        await started.registered()
        started.link.send_report(worker_report(seq=7))
        report = await serving.hear(WorkerReport)

        assert registration.addresses == ("127.0.0.1",)
        assert registration.healthz_port == 8080
        assert report.seq == 7
        assert started.link.report_interval_s == 0.5
        assert started.changes == 2  # established, registered


async def test_a_close_by_the_server_is_a_short_absence_every_time() -> None:
    serving = Serving()
    async with server(serving.serve) as url, worker(url) as started:
        for times in range(1, 6):
            await serving.hear(Registration)
            await started.registered()
            await serving.close("go-away")
            await started.counted("closed", times)
        await started.registered()

        assert started.link.counts["established"] >= 6


async def test_what_changes_is_registered_anew_and_nothing_else_is() -> None:
    serving = Serving()
    async with server(serving.serve) as url, worker(url) as started:
        await serving.hear(Registration)
        await started.registered()
        assert started.link.refresh_registration() is False
        started.addresses = ("192.0.2.7",)
        assert started.link.refresh_registration() is True
        assert started.link.refresh_registration() is False

        assert (await serving.hear(Registration)).addresses == ("192.0.2.7",)


async def test_a_report_without_a_connection_waits_for_nobody() -> None:
    async with busy_server("") as url, worker(url) as started:
        await started.counted("dial-http")
        started.link.send_report(worker_report())

        assert started.link.refresh_registration() is False
        assert not started.link.is_open


async def test_the_newest_spec_is_kept_and_orders_for_links_are_refused() -> None:
    serving = Serving()
    async with server(serving.serve) as url, worker(url) as started:
        await serving.hear(Registration)
        assert serving.session is not None
        assert serving.webs is not None
        for generation in (1, 2):
            serving.session.send(SpecOffer(generation, {}))
            await flush(serving.webs, serving.session)
        async with asyncio.timeout(PATIENCE_S):
            while started.link.spec != SpecOffer(2, {}):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await serving.webs.send_bytes(encode_frame(order("restart"), version=1, sequence=2))

        await started.counted("violation")
        await started.registered()


async def send_garbage(webs: web.WebSocketResponse, _: web.Request) -> None:
    await webs.receive_bytes()
    await webs.send_bytes(b"\xff" * 100)
    await webs.receive()


async def send_text(webs: web.WebSocketResponse, _: web.Request) -> None:
    await webs.send_str("hello")
    await webs.receive()
    await webs.receive()


async def send_half_a_frame(webs: web.WebSocketResponse, request: web.Request) -> None:
    await welcome(webs)
    assert request.transport is not None
    request.transport.write(b"\x82\x7e\x10\x00only a part")
    request.transport.close()


async def send_a_broken_frame(webs: web.WebSocketResponse, request: web.Request) -> None:
    await welcome(webs)
    assert request.transport is not None
    request.transport.write(b"\xf3\x00")
    await webs.receive()


async def send_too_much(webs: web.WebSocketResponse, _: web.Request) -> None:
    await welcome(webs)
    await webs.send_bytes(bytes(300 * 1024))
    while not webs.closed:
        await webs.receive()


async def say_nothing(webs: web.WebSocketResponse, _: web.Request) -> None:
    while not webs.closed:
        await webs.receive()


async def welcome_and_fall_silent(webs: web.WebSocketResponse, _: web.Request) -> None:
    await welcome(webs)
    while not webs.closed:
        await webs.receive()


async def close_in_order(webs: web.WebSocketResponse, _: web.Request) -> None:
    await welcome(webs)
    await webs.send_bytes(encode_frame(Close("shutting-down", "for a test"), version=1))


async def refuse(webs: web.WebSocketResponse, _: web.Request) -> None:
    await webs.receive_bytes()
    await webs.send_bytes(encode_frame(Refused("not-enrolled", "for a test"), version=1))


async def choose_a_version_that_nobody_speaks(webs: web.WebSocketResponse, _: web.Request) -> None:
    await webs.receive_bytes()
    chosen = Welcome(
        9, "session-1", resumed=False, received_up_to=0, keepalive_interval_s=1, report_interval_s=1
    )
    await webs.send_bytes(encode_frame(chosen, version=1))
    await webs.receive()


async def vanish(_: web.WebSocketResponse, request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@pytest.mark.parametrize(
    ("misbehaves", "cause"),
    [
        (send_garbage, "violation"),
        (send_text, "violation"),
        (send_a_broken_frame, "violation"),
        (send_too_much, "violation"),
        (choose_a_version_that_nobody_speaks, "violation"),
        (send_half_a_frame, "lost"),
        (vanish, "lost"),
        (say_nothing, "silent"),
        (welcome_and_fall_silent, "silent"),
        (close_in_order, "closed"),
        (refuse, "refused"),
    ],
)
@on_both_loops
def test_what_a_server_does_wrong_costs_a_counted_reconnect_each_time(
    run: Run, misbehaves: Serve, cause: str
) -> None:
    async def meet() -> None:
        async with server(misbehaves) as url, worker(url, timeout_s=0.3) as started:
            await started.counted(cause, times=3)

            assert set(started.link.counts) <= {cause, "established"}
            assert not started.link.is_registered

    run(meet())


@asynccontextmanager
async def busy_server(retry_after: str) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": retry_after} if retry_after else {})

    async with http_server(answer) as url:
        yield url


@pytest.mark.parametrize(("retry_after", "is_obeyed"), [("3000", True), ("soon", False), ("-1", False)])
async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(retry_after: str, is_obeyed: bool) -> None:
    async with busy_server(retry_after) as url, worker(url) as started:
        await started.counted("dial-http")
        if is_obeyed:
            await asyncio.sleep(0.3)  # more than ten of its own waits
            assert started.link.counts["dial-http"] == 1
        else:
            await started.counted("dial-http", 3)


async def test_a_redirect_is_not_followed() -> None:
    visited = []

    async def answer(request: web.Request) -> web.StreamResponse:
        visited.append(request.path_qs)
        raise web.HTTPFound("/v1/worker?again")

    async with http_server(answer) as url, worker(url) as started:
        await started.counted("dial-connect", 3)

        assert set(visited) == {"/v1/worker"}


async def test_a_server_that_takes_connections_and_never_upgrades_is_given_up_in_time() -> None:
    with listening() as silent:
        port = silent.getsockname()[1]
        async with worker(f"http://127.0.0.1:{port}", timeout_s=0.1) as started:
            await started.counted("dial-timeout", 2)


async def test_names_are_resolved_by_helpers_and_those_that_are_none_cost_a_try() -> None:
    serving = Serving()
    before = {thread.name for thread in threading.enumerate()}
    async with server(serving.serve) as url:
        async with worker(url.replace("127.0.0.1", "localhost")) as started:
            await serving.hear(Registration)
            assert {thread.name for thread in threading.enumerate()} == before
        async with worker("http://no.such.name.invalid:1", timeout_s=2.0) as started:
            await started.counted("dial-name", 2)


@on_both_loops
def test_a_server_that_does_not_read_keeps_no_socket_of_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server_link.SEND_TIMEOUT_S", 0.2)

    async def meet() -> None:
        gone = asyncio.Event()

        async def serve(webs: web.WebSocketResponse, request: web.Request) -> None:
            await welcome(webs, keepalive_interval_s=60.0)
            assert request.transport is not None
            request.transport.pause_reading()
            await gone.wait()

        async with asyncio.timeout(PATIENCE_S), server(serve) as url, worker(url) as started:
            await started.counted("established")
            while not started.link.counts["not-reading"]:
                started.link.send_report(worker_report(telemetry={"texts": ["x" * 4000] * 50}))
                await asyncio.sleep(0)
            gone.set()

    run(meet())


async def test_a_flood_is_slowed_down_to_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server_link.FRAMES_PER_SECOND", 20)

    async def flood(webs: web.WebSocketResponse, _: web.Request) -> None:
        await welcome(webs, keepalive_interval_s=60.0)
        offer = encode_frame(SpecOffer(1, {}), version=1)
        while not webs.closed:
            await webs.send_bytes(offer)
            await webs.ping()
            await asyncio.sleep(0)

    async with server(flood) as url, worker(url) as started:
        await started.counted("flooded", 2)

        assert set(started.link.counts) == {"established", "flooded"}


async def test_the_end_of_the_worker_is_told_to_the_server() -> None:
    serving = Serving()
    async with server(serving.serve) as url:
        async with worker(url) as started:
            await started.registered()
        assert (await serving.hear(PeerClosed)).code == "shutting-down"


async def test_a_session_goes_on_after_a_loss() -> None:
    hellos: list[Hello] = []
    session = LinkSession(Role.SERVER, Role.WORKER, SessionConfig(keepalive_interval_s=60.0))
    transports: list[asyncio.Transport | None] = []

    async def serve(webs: web.WebSocketResponse, request: web.Request) -> None:
        transports.append(request.transport)
        session.connection_accepted("session-1", 0.0)
        try:
            async for message in webs:
                for event in session.receive_frame(message.data, 0.0):
                    if isinstance(event, Established) and isinstance(event.peer, Hello):
                        hellos.append(event.peer)
                    elif isinstance(event, MessageReceived):
                        session.send(Registered("node-1"))
                await flush(webs, session)
        finally:
            session.connection_lost()

    async with server(serve) as url, worker(url) as started:
        await started.registered()
        assert transports[0] is not None
        transports[0].abort()
        await started.counted("established", 2)
        await started.registered()

        assert [hello.session_id for hello in hellos] == [None, "session-1"]


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:1", "ws://127.0.0.1:1/v1/worker"),
        ("https://a.example/", "wss://a.example/v1/worker"),
        ("wss://a.example/base/", "wss://a.example/base/v1/worker"),
    ],
)
def test_the_endpoint_is_under_the_servers_path(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


def test_certificates_are_verified_for_all_but_loopback() -> None:
    far, near = tls_context("https://a.example", None), tls_context("https://localhost", None)

    assert far is not None
    assert near is not None
    assert (far.verify_mode, far.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert near.verify_mode is ssl.CERT_NONE
    assert tls_context("http://localhost", None) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=elsewhere.example",
         "-addext", "subjectAltName=DNS:elsewhere.example"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "cert.pem", folder / "key.pem"


async def test_a_certificate_for_another_name_is_refused_where_certificates_count(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    serving = Serving()

    async with server(serving.serve, tls) as url:
        async with worker(url, ca_file=str(cert)) as started:  # a file was named: it is held to it
            await started.counted("dial-tls", 2)
        async with worker(url) as started:
            await serving.hear(Registration)
            await started.registered()
