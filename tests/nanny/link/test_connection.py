"""Link's end of the server connection against servers that misbehave in every way that costs a reconnect."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nanny.common.log_lines import LogLines
from nanny.link.config import LinkConfig
from nanny.link.connection import ServerConnection
from nanny.link.counters import Counters
from nanny.protocol.codec import decode_frame, encode_frame
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import Close, CommandAccepted, Ping, Pong, Refused, Role
from nanny.protocol.session_events import Established, SessionConfig
from tests.support.link_server import order
from tests.support.server_peers import hello, nanny_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from nanny.protocol.messages import ApplicationMessage

    Serve = Callable[[web.WebSocketResponse, web.Request], Awaitable[None]]

PATIENCE_S = 30.0

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


class Link:
    """A connection under test and what it told."""

    def __init__(self, url: str, **changed: Any) -> None:
        settings = {"backoff_base_s": 0.01, "backoff_ceiling_s": 0.02, "connect_timeout_s": 5.0} | changed
        self.counters = Counters()
        self.log: list[bytes] = []
        self.established: asyncio.Queue[bool] = asyncio.Queue()
        self.messages: asyncio.Queue[ApplicationMessage] = asyncio.Queue()
        self.connection = ServerConnection(
            LinkConfig(server_url=url, **settings),
            hello=lambda: hello(Role.LINK),
            on_established=self.established.put_nowait,
            on_message=self.messages.put_nowait,
            counters=self.counters,
            log=LogLines(self.log.append, "link", lambda: 0.0),
        )

    async def disconnected(self, cause: str, times: int = 1) -> None:
        """Wait until so many connections ended for this cause."""
        async with asyncio.timeout(PATIENCE_S):
            while self.counters.disconnects.get(cause, 0) < times:
                assert set(self.counters.disconnects) <= {cause}, (self.counters.disconnects, self.log)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def linked(url: str, **changed: Any) -> AsyncIterator[Link]:
    link = Link(url, **changed)
    running = asyncio.create_task(link.connection.run())
    try:
        yield link
    finally:
        if running.done():
            running.result()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


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
    application.router.add_get("/v1/link", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "http" if tls is None else "https"
        yield (
            f"{scheme}://localhost:{runner.addresses[0][1]}"
            if tls
            else f"http://127.0.0.1:{runner.addresses[0][1]}"
        )
    finally:
        await runner.cleanup()


async def welcome(webs: web.WebSocketResponse, keepalive_interval_s: float = 0.05) -> LinkSession:
    """Answer Hello as a server should; give the session."""
    config = SessionConfig(keepalive_interval_s=keepalive_interval_s)
    session = LinkSession(Role.SERVER, Role.LINK, config)
    session.connection_accepted("session-1", 0.0)
    first = await webs.receive_bytes()
    assert any(isinstance(event, Established) for event in session.receive_frame(first, 0.0))
    for frame in session.frames_to_send():
        await webs.send_bytes(frame)
    return session


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


async def send_what_only_links_send(webs: web.WebSocketResponse, _: web.Request) -> None:
    await welcome(webs)
    await webs.send_bytes(encode_frame(nanny_report(), version=1))
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


async def vanish(_: web.WebSocketResponse, request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@pytest.mark.parametrize(
    ("misbehaves", "cause", "is_violation"),
    [
        (send_garbage, "violation", True),
        (send_text, "violation", True),
        (send_a_broken_frame, "violation", True),
        (send_too_much, "violation", True),
        (send_what_only_links_send, "violation", True),
        (send_half_a_frame, "lost", False),
        (vanish, "lost", False),
        (say_nothing, "silent", False),
        (welcome_and_fall_silent, "silent", False),
        (close_in_order, "closed", False),
        (refuse, "refused", False),
    ],
)
async def test_what_a_server_does_wrong_costs_a_counted_reconnect_each_time(
    misbehaves: Serve, cause: str, is_violation: bool
) -> None:
    async with server(misbehaves) as url, linked(url, connect_timeout_s=0.3) as link:
        await link.disconnected(cause, times=3)

        assert (link.counters.violations_total >= 3) is is_violation
        assert all(b'"cause":"%s"' % cause.encode() in line for line in link.log if b'"no connection' in line)


async def test_messages_flow_both_ways_and_pings_are_answered() -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    sent = order("restart")

    async def serve(webs: web.WebSocketResponse, _: web.Request) -> None:
        session = await welcome(webs)
        session.send(sent)
        for frame in [*session.frames_to_send(), encode_frame(Ping(7), version=1)]:
            await webs.send_bytes(frame)
        async for message in webs:
            heard.put_nowait(decode_frame(message.data).message)

    async def hear(kind: type[object]) -> object:
        while not isinstance(one := await heard.get(), kind):
            pass
        return one

    async with asyncio.timeout(PATIENCE_S), server(serve) as url, linked(url) as link:
        assert await link.established.get() is False
        assert await link.messages.get() == sent
        assert await hear(Pong) == Pong(7)
        link.connection.send(accepted := CommandAccepted(sent.command_id))
        assert await hear(CommandAccepted) == accepted
        assert link.connection.is_open
        assert link.counters.disconnects == {}


async def test_what_is_not_read_waits_at_the_server_and_a_long_wait_is_not_its_silence() -> None:
    sent = order("restart")

    async def serve(webs: web.WebSocketResponse, _: web.Request) -> None:
        session = await welcome(webs)
        session.send(sent)
        for frame in session.frames_to_send():
            await webs.send_bytes(frame)
        while not webs.closed:
            await webs.receive()

    async with asyncio.timeout(PATIENCE_S), server(serve) as url, linked(url) as link:
        link.connection.read_on(wanted=False)
        assert await link.established.get() is False
        await link.disconnected("overloaded", times=2)
        assert link.messages.empty()
        link.connection.read_on(wanted=True)
        assert await link.messages.get() == sent


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks() -> None:
    loop, dialled_at = asyncio.get_running_loop(), list[float]()

    async def answer(_: web.Request) -> web.StreamResponse:
        dialled_at.append(loop.time())
        return web.Response(status=503, headers={"Retry-After": "1"})

    async with http_server(answer) as url, linked(url) as link:
        await link.disconnected("http-status", times=2)

    assert dialled_at[1] - dialled_at[0] >= 1.0


async def test_a_refusal_with_a_time_is_obeyed() -> None:
    loop, dialled_at = asyncio.get_running_loop(), list[float]()

    async def serve(webs: web.WebSocketResponse, _: web.Request) -> None:
        dialled_at.append(loop.time())
        await webs.receive_bytes()
        await webs.send_bytes(encode_frame(Refused("identity-conflict", "", 0.7), version=1))

    async with server(serve) as url, linked(url) as link:
        await link.disconnected("refused", times=2)

    assert dialled_at[1] - dialled_at[0] >= 0.7


async def test_a_redirect_is_not_followed() -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        raise web.HTTPFound("/v1/link?elsewhere")

    async with http_server(answer) as url, linked(url) as link:
        await link.disconnected("connect", times=2)

    assert set(asked) == {"/v1/link"}


async def test_a_server_that_takes_connections_and_never_upgrades_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with linked(url, connect_timeout_s=0.1) as link:
            await link.disconnected("connect-timeout", times=2)


async def test_no_server_at_all_costs_tries_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with linked(url) as link:
        await link.disconnected("connect", times=5)
        link.connection.send(nanny_report())


async def test_too_much_that_nobody_acknowledges_begins_a_new_session() -> None:
    async def serve(webs: web.WebSocketResponse, _: web.Request) -> None:
        await welcome(webs)
        async for _message in webs:
            pass  # takes everything, acknowledges nothing

    async with asyncio.timeout(PATIENCE_S), server(serve) as url, linked(url) as link:
        await link.established.get()
        for _ in range(1025):
            link.connection.send(CommandAccepted(order("drain").command_id))
        assert await link.established.get() is False
        assert link.counters.disconnects == {"closed": 1}


async def test_a_server_that_does_not_read_keeps_no_socket_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanny.link.connection.SEND_TIMEOUT_S", 0.2)
    gone = asyncio.Event()

    async def serve(webs: web.WebSocketResponse, request: web.Request) -> None:
        await welcome(webs, keepalive_interval_s=60.0)
        assert request.transport is not None
        request.transport.pause_reading()
        await gone.wait()

    async with asyncio.timeout(PATIENCE_S), server(serve) as url, linked(url) as link:
        await link.established.get()
        while not link.counters.disconnects:
            for _ in range(100):
                link.connection.send(nanny_report(desired_reason="x" * 1000))
                await asyncio.sleep(0)
        gone.set()
    assert set(link.counters.disconnects) == {"not-reading"}


async def test_the_end_of_link_is_told_to_the_server() -> None:
    told: asyncio.Queue[object] = asyncio.Queue()

    async def serve(webs: web.WebSocketResponse, _: web.Request) -> None:
        session = await welcome(webs)
        async for message in webs:
            for event in session.receive_frame(message.data, 0.0):
                told.put_nowait(event)

    async with asyncio.timeout(PATIENCE_S), server(serve) as url:
        async with linked(url) as link:
            await link.established.get()
        assert getattr(await told.get(), "code", None) == "shutting-down"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "cert.pem", folder / "key.pem"


async def test_a_certificate_that_nobody_vouches_for_is_refused_until_one_does(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async with server(welcome_and_fall_silent, tls) as url:
        async with linked(url) as link:
            await link.disconnected("connect", times=2)
            assert any(b"certificate" in line for line in link.log)
        async with asyncio.timeout(PATIENCE_S), linked(url, ca_file=str(cert)) as link:
            await link.established.get()


async def test_a_client_certificate_is_shown_to_a_server_that_wants_one(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    tls.load_cert_chain(cert, key)
    tls.verify_mode = ssl.CERT_REQUIRED

    async with server(welcome_and_fall_silent, tls) as url:
        mine = {"ca_file": str(cert), "client_cert_file": str(cert), "client_key_file": str(key)}
        async with asyncio.timeout(PATIENCE_S), linked(url, **mine) as link:
            await link.established.get()


async def test_certificates_that_cannot_be_read_are_tried_again(tmp_path: Path) -> None:
    async with linked("https://localhost:1", ca_file=str(tmp_path / "none")) as link:
        await link.disconnected("certificates", times=3)
