"""What a server is tested with: real links and workers (WebSocket, LinkSession), a real /healthz, a real client.

Each stands for one program of one node and does only what the test tells it. Nothing here waits by sleeping: what is
to be waited for arrives as a message or is asked for with `wait_s`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from aiohttp import web

from nanny.protocol.incarnation import Incarnation
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import Desired, Hello, NannyReport, Registration, Role, WorkerReport
from nanny.protocol.session_events import (
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from server_stub.events import TYPE_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nanny.protocol.messages import ApplicationMessage
    from nanny.protocol.session_events import SessionEvent

T = TypeVar("T")
EPOCH = "01900000-0000-7000-8000-000000000001"
PATIENCE_S = 20.0


def life(number: int, epoch: str = EPOCH) -> Incarnation:
    return Incarnation(epoch, number)


def hello(role: Role, node_id: str = "node-1", number: int | None = 1, **changed: Any) -> Hello:
    fields: dict[str, Any] = {
        "role": role,
        "protocol_versions": (1,),
        "node_id": node_id,
        "node_name": node_id,
        "machine_id": f"machine-of-{node_id}",
        "boot_id": "boot-1",
        "software_version": "0.1.0",
        "incarnation": None if number is None else life(number),
    }
    return Hello(**(fields | changed))


def nanny_report(phase: str = "running", number: int | None = 1, **changed: Any) -> NannyReport:
    fields: dict[str, Any] = {
        "phase": phase,
        "desired": Desired.UP,
        "desired_by": "default",
        "desired_reason": "",
        "desired_since_s": 60.0,
        "incarnation": None if number is None else life(number),
        "worker_state": "beating",
        "loop_lag_s": 0.01,
        "beat_age_s": 0.5,
        "conditions": (),
        "restarts": {},
        "last_restart": None,
        "next_step": "",
        "next_step_in_s": None,
        "hold_remaining_s": None,
        "draining": False,
        "nanny_version": "0.1.0",
        "journal_degraded": False,
        "uptime_s": 60.0,
    }
    return NannyReport(**(fields | changed))


def registration(port: int, number: int | None = 1, **changed: Any) -> Registration:
    fields: dict[str, Any] = {
        "incarnation": None if number is None else life(number),
        "addresses": ("127.0.0.1",),
        "healthz_port": port,
        "capacity": {"cpus": 2},
        "labels": {"rack": "r1"},
        "software_version": "0.1.0",
        "started_age_s": 0.5,
    }
    return Registration(**(fields | changed))


def worker_report(seq: int = 1, **changed: Any) -> WorkerReport:
    fields: dict[str, Any] = {
        "seq": seq,
        "loop_lag_s": 0.002,
        "telemetry": {"host": {"cpu": {"busy_ratio": 0.035}}},
        "conditions": (),
        "observed_generation": None,
    }
    return WorkerReport(**(fields | changed))


class Peer:
    """A link or a worker: one session over as many connections as the test makes."""

    def __init__(self, url: str, role: Role, node_id: str = "node-1", number: int | None = 1) -> None:
        self.role = role
        self.hello = hello(role, node_id, number)
        self.session = LinkSession(role, Role.SERVER, SessionConfig(ack_delay_s=0.01))
        self.events: asyncio.Queue[SessionEvent] = asyncio.Queue()
        self._url = f"{url}/v1/{role.value}"
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> SessionEvent:
        """Dial, say Hello, and give what the server makes of it."""
        loop = asyncio.get_running_loop()
        while not self.events.empty():
            self.events.get_nowait()  # of the connection before
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(self._url)
        self.session.connection_made(self.hello, loop.time())
        self._reader = asyncio.create_task(self._read(self._socket))
        await self.flush()
        return await asyncio.wait_for(self.events.get(), PATIENCE_S)

    async def send(self, message: ApplicationMessage) -> None:
        self.session.send(message)
        await self.flush()

    async def flush(self) -> None:
        assert self._socket is not None
        for frame in self.session.frames_to_send():
            await self._socket.send_bytes(frame)

    async def send_raw(self, frame: bytes) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(frame)

    async def expect(self, kind: type[T]) -> T:
        """Give the next event, or the next application message, of this type; others are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = await self.events.get()
                if isinstance(event, kind):
                    return event
                if isinstance(event, MessageReceived) and isinstance(event.message, kind):
                    return event.message
                assert not isinstance(event, SessionFailed | SessionRefused), event

    async def ended(self) -> None:
        """Wait until the server has closed the connection."""
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({self._reader})

    async def disconnect(self) -> None:
        """Drop the connection, as a crash would; the session stays."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        if self._http is not None:
            if self._socket is not None and self._socket._response.connection is not None:
                transport = self._socket._response.connection.transport
                if transport is not None:
                    transport.abort()
            await self._http.close()
            self.session.connection_lost()
        self._http = self._reader = self._socket = None

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while True:
            deadline = self.session.next_deadline()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await socket.receive()
            except TimeoutError:
                happened = self.session.handle_deadline(loop.time())
            else:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return
                happened = self.session.receive_frame(message.data, loop.time())
            for event in happened:
                self.events.put_nowait(event)
            await self.flush()
            if any(isinstance(event, PeerClosed | SessionFailed | SessionRefused) for event in happened):
                return


class Healthz:
    """A worker's /healthz that answers what the test last said."""

    def __init__(self) -> None:
        self.port = 0
        self.status_code = 200
        self.body: Any = {"status": "ok", "incarnation": str(life(1))}
        self.asked = 0
        self.hangs = False
        self._released = asyncio.Event()

    def says(self, status: str, number: int = 1, **more: Any) -> None:
        self.status_code = 503 if status in {"stalled", "fallback"} else 200
        self.body = {"status": status, "incarnation": str(life(number))} | more

    async def answer(self, _request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.hangs:
            await self._released.wait()
        if isinstance(self.body, bytes):
            return web.Response(status=self.status_code, body=self.body)
        return web.json_response(self.body, status=self.status_code)

    def release(self) -> None:
        self._released.set()


@asynccontextmanager
async def healthz_server(port: int = 0) -> AsyncIterator[Healthz]:
    """Serve /healthz on loopback for the length of the block."""
    healthz = Healthz()
    application = web.Application()
    application.router.add_get("/healthz", healthz.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    healthz.port = runner.addresses[0][1]
    try:
        yield healthz
    finally:
        healthz.release()
        await runner.cleanup()


class Client:
    """The API as an operator's program uses it."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.http = http

    async def get(self, path: str, expect: int = 200, **query: Any) -> Any:
        async with self.http.get(
            f"{self.url}{path}", params={k: str(v) for k, v in query.items()}
        ) as response:
            answer = await response.json(content_type=None)
            assert response.status == expect, answer
            return answer

    async def post(self, path: str, body: Any = None, expect: int = 202, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.url}{path}", json=body, headers=sent) as response:
            answer = await response.json(content_type=None)
            assert response.status == expect, answer
            return answer

    async def events(self, **query: Any) -> list[tuple[str, str | None, dict[str, Any]]]:
        """The log as (short type, node id, data), oldest first."""
        listed = (await self.get("/v1/events", **query))["events"]
        return [(one["type"].removeprefix(TYPE_PREFIX), one.get("subject"), one["data"]) for one in listed]

    async def node_in(self, state: str, node: str = "node-1", **query: Any) -> Any:
        """Wait until the node is in this state, and give its page."""
        page = await self.get(f"/v1/nodes/{node}", wait_s=PATIENCE_S, until=state, **query)
        assert page["state"] == state, page
        return page

    async def order(self, kind: str = "restart", node: str = "node-1", expect: int = 202, **more: Any) -> Any:
        body = {"kind": kind, "reason": "a test", "actor": "tester", "target_incarnation": None} | more
        return await self.post(f"/v1/nodes/{node}/commands", body, expect)

    async def finished(self, command_id: str) -> Any:
        """Wait until the command has its outcome, and give it."""
        command = await self.get(f"/v1/commands/{command_id}", wait_s=PATIENCE_S)
        assert command["is_finished"], command
        return command
