"""A control server for tests of link and worker: a real WebSocket endpoint and session, in a thread of its own.

It does only what the test tells it: it acknowledges no outcome by itself, may be stopped and started on the same
port, and then remembers its session or not. All that arrives is kept in order and waited for, never slept for.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import WSMsgType, web

from nanny.common.identifiers import uuid7
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import CommandOrder, Hello, Role
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from nanny.protocol.messages import ServerMessage

T = TypeVar("T")
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A link's connection is gone."""


def order(kind: str, **changed: Any) -> CommandOrder:
    """A fresh order; its fields may be changed by name."""
    fields: dict[str, Any] = {
        "command_id": uuid7(time.time_ns() // 1_000_000, os.urandom(10)),
        "kind": kind,
        "time_to_live_s": 60.0,
        "reason": "a test",
        "actor": "tester",
    }
    return CommandOrder(**(fields | changed))


class LinkServer:
    """One server for one link, or one worker, at a time.

    Attributes:
        port: the same over all starts.
        connections_total: links that connected.
    """

    def __init__(self, role: Role = Role.LINK) -> None:
        self.role = role
        self.port = 0
        self.connections_total = 0
        self.session_config = SessionConfig(ack_delay_s=0.02, report_interval_s=0.5)
        self._heard: deque[Any] = deque()
        self._changed = threading.Condition()
        self._session = LinkSession(Role.SERVER, self.role, self.session_config)
        self._woken: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link-server")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # What a test does

    def start(self, *, forget_session: bool = False) -> None:
        """Listen, on the port that was had before."""
        if forget_session:
            self._session = LinkSession(Role.SERVER, self.role, self.session_config)
        self._run(self._start())

    def stop(self) -> None:
        """Vanish, as a crash would: no Close, no answer."""
        self._run(self._stop())

    def close(self) -> None:
        """Stop, and end the thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def send(self, message: ServerMessage) -> None:
        """Queue a message in the session, whether or not a link is connected."""

        async def send() -> None:
            self._session.send(message)
            if self._woken is not None:
                self._woken.set()

        self._run(send())

    def expect(self, kind: type[T], where: Callable[[T], bool] = lambda _: True) -> T:
        """Wait for the next message or event of this kind; what comes before it is thrown away."""
        deadline = time.monotonic() + PATIENCE_S
        passed_over = []
        with self._changed:
            while True:
                while self._heard:
                    one = self._heard.popleft()
                    if isinstance(one, kind) and where(one):
                        return one
                    passed_over.append(one)
                if not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {kind.__name__} came; passed over: {passed_over[-10:]}")

    def heard(self, kind: type[T]) -> list[T]:
        """All of this kind that have come and were neither expected nor passed over."""
        with self._changed:
            return [one for one in self._heard if isinstance(one, kind)]

    # Within

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def _keep(self, one: object) -> None:
        with self._changed:
            self._heard.append(one)
            self._changed.notify_all()

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_get(f"/v1/{self.role.value}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            server = runner.server
            assert server is not None
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=0.1)
        await socket.prepare(request)
        self.connections_total += 1
        session, loop, woken = self._session, asyncio.get_running_loop(), asyncio.Event()
        session.connection_accepted(os.urandom(8).hex(), loop.time())
        self._woken = woken
        writer = asyncio.create_task(self._write(socket, session, woken))
        try:
            await self._read(socket, session, woken)
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            session.connection_lost()
            if self._woken is woken:
                self._woken = None
            self._keep(Disconnected())
        return socket

    async def _read(self, socket: web.WebSocketResponse, session: LinkSession, woken: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(session.next_deadline()):
                    message = await socket.receive()
            except TimeoutError:
                happened = session.handle_deadline(loop.time())
            else:
                if message.type is not WSMsgType.BINARY:
                    return
                happened = session.receive_frame(message.data, loop.time())
            woken.set()
            for event in happened:
                match event:
                    case MessageReceived(message=told):
                        self._keep(told)
                    case Established(peer=Hello() as hello):
                        self._keep(hello)
                        self._keep(event)
                    case _:
                        self._keep(event)
            if any(isinstance(event, PeerClosed | SessionFailed) for event in happened):
                return

    async def _write(self, socket: web.WebSocketResponse, session: LinkSession, woken: asyncio.Event) -> None:
        while True:
            await woken.wait()
            woken.clear()
            for frame in session.frames_to_send():
                with suppress(ConnectionError):
                    await socket.send_bytes(frame)


@contextmanager
def link_server(*, started: bool = True, role: Role = Role.LINK) -> Iterator[LinkServer]:
    """A server for the length of the block."""
    server = LinkServer(role)
    try:
        if started:
            server.start()
        yield server
    finally:
        server.close()
