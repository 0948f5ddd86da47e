"""One connection of a simulated node: its link's or its worker's, spoken as the real ones speak it.

Dials, says Hello, registers (a worker), reports at the interval that the server asked for, answers pings and
orders, and dials again after a loss, with a delay that is spread as link's is. Everything is a callback: no
task waits for a connection that says nothing. What an order does to the node, the node decides.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, assert_never

from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import CommandOrder, OutcomeAcknowledged, Registered, Role, SpecOffer
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State
from server_stub.fleet.websocket import WebSocket

if TYPE_CHECKING:
    from nanny.protocol.session_events import SessionEvent
    from server_stub.fleet.node import SimulatedNode
    from server_stub.fleet.surroundings import Surroundings

CONFIG: Final = SessionConfig()
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 15.0
DIAL_TIMEOUT_S: Final = 10.0
PATHS: Final = {Role.LINK: "/v1/link", Role.WORKER: "/v1/worker"}


class Peer:
    """A link or a worker, over as many connections as it takes."""

    def __init__(self, node: SimulatedNode, role: Role, around: Surroundings, *, stays: bool) -> None:
        """Begin without a connection.

        Args:
            node: whose it is.
            role: which of the two.
            around: what the process of the fleet gives to all.
            stays: False: it goes as soon as it has registered.
        """
        self._node = node
        self._role = role
        self._around = around
        self._stays = stays
        self._wanted = False
        self._session = LinkSession(role, Role.SERVER, CONFIG)
        self._socket: WebSocket | None = None
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._retry_s = FIRST_RETRY_S
        self._report_at = float("inf")
        self._report_interval_s = CONFIG.report_interval_s
        self._reports = 0

    def start(self) -> None:
        """Dial, and dial again until `stop`."""
        self._wanted = True
        if self._dialling is None and self._socket is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial(0.0))

    def stop(self) -> None:
        """Break off without a word, and forget the session, as a process that dies does."""
        self._wanted = False
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        socket = self._let_go()
        if socket is not None:
            socket.abort("stopped")
        self._session = LinkSession(self._role, Role.SERVER, CONFIG)

    async def _dial(self, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        socket = WebSocket(
            "{}:{}".format(*self._around.server),
            PATHS[self._role],
            on_open=lambda: self._opened(socket),
            on_message=lambda message: self._received(socket, message),
            on_gone=lambda why: self._gone(socket, why),
        )
        loop = asyncio.get_running_loop()
        try:
            async with self._around.dials, asyncio.timeout(DIAL_TIMEOUT_S):
                self._around.counts.dials += 1
                self._socket = socket
                await loop.create_connection(lambda: socket, *self._around.server)
        except (OSError, TimeoutError) as error:
            self._around.counts.failed(f"dial: {type(error).__name__}")
            self._let_go()
            self._dialling = None
            socket.abort("not connected")
            self._dial_later()
        except asyncio.CancelledError:
            socket.abort("stopped")
            raise
        else:
            if self._dialling is asyncio.current_task():  # else it was lost already, and is dialled again
                self._dialling = None

    def _let_go(self) -> WebSocket | None:
        """Forget the connection, if there is one, and give it to be ended."""
        socket, self._socket = self._socket, None
        if self._is_open:
            self._is_open = False
            self._around.counts.open_connections -= 1
        if self._session.state is not State.OFFLINE:
            self._session.connection_lost()
        self._report_at = float("inf")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return socket

    def _dial_later(self, delay_s: float | None = None) -> None:
        if not self._wanted:
            return
        wait_s = self._retry_s if delay_s is None else delay_s
        self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)
        wait_s *= self._around.chance.uniform(0.5, 1.5)
        self._dialling = asyncio.get_running_loop().create_task(self._dial(wait_s))

    # What the connection tells

    def _opened(self, socket: WebSocket) -> None:
        if socket is self._socket:
            self._is_open = True
            self._around.counts.open_connections += 1
            self._session.connection_made(self._node.hello(self._role), time.monotonic())
            self._flush()

    def _received(self, socket: WebSocket, message: bytes) -> None:
        if socket is self._socket:
            for event in self._session.receive_frame(message, time.monotonic()):
                self._act(event)
            self._flush()

    def _gone(self, socket: WebSocket, why: str) -> None:
        if socket is self._socket:
            self._let_go()
            self._around.counts.failed(f"lost: {why}")
            self._dial_later()

    def _act(self, event: SessionEvent) -> None:
        match event:
            case Established(peer=welcome):
                self._retry_s = FIRST_RETRY_S
                self._report_interval_s = getattr(welcome, "report_interval_s", self._report_interval_s)
                if self._role is Role.WORKER:
                    self._session.send(self._node.registration())
                if self._stays:
                    self._report()
                    # The next ones are spread, or a fleet that was met at once would speak at once for ever.
                    self._report_at -= self._around.chance.uniform(0, self._report_interval_s)
            case MessageReceived(message=Registered()):
                self._node.registered()
                if not self._stays:
                    self._hang_up()
            case MessageReceived(message=CommandOrder() as order):
                for answer in self._node.ordered(order):
                    self._session.send(answer)
            case MessageReceived(message=OutcomeAcknowledged() | SpecOffer()):
                pass
            case MessageReceived():
                self._around.counts.failed("a message that is not for us")
            case SessionRefused(code=code, retry_after_s=retry_after_s):
                self._end(f"refused: {code}", retry_after_s)
            case PeerClosed(code=code, retry_after_s=retry_after_s):
                self._end(f"closed: {code}", retry_after_s)
            case SessionFailed(reason=reason):
                self._end(f"failed: {reason}"[:80], None)
            case _:
                assert_never(event)

    def _hang_up(self) -> None:
        self._wanted = False
        self._session.close("done", "registered; this node is only probed from here on")
        self._end(None, None)

    def _end(self, failure: str | None, retry_after_s: float | None) -> None:
        """Send the last words, close, and come back if there is a reason to."""
        frames = self._session.frames_to_send()
        socket = self._let_go()
        if socket is not None:
            for frame in frames:
                socket.send(frame)
            socket.close()
        if failure is not None:
            self._around.counts.failed(failure)
            self._dial_later(retry_after_s)

    # Time

    def _report(self) -> None:
        self._reports += 1
        self._around.counts.reports += 1
        now = time.monotonic()
        self._session.send(self._node.report(self._role, self._reports))
        self._report_at = now + self._report_interval_s

    def _tick(self) -> None:
        self._timer = None
        if self._socket is None:
            return
        now = time.monotonic()
        if now >= self._report_at:
            self._report()
        deadline = self._session.next_deadline()
        if deadline is not None and now >= deadline:
            for event in self._session.handle_deadline(now):
                self._act(event)
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        for frame in self._session.frames_to_send():
            self._socket.send(frame)
        deadline = self._session.next_deadline()
        next_at = min(self._report_at, float("inf") if deadline is None else deadline)
        if next_at == float("inf"):
            return
        delay_s = max(0.002, next_at - time.monotonic())
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return  # it looks again when it fires
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self._tick)
