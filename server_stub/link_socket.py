"""One accepted WebSocket connection: frames out by one writer task, frames in at a bounded rate.

It carries a `LinkSession` that it does not own: a newer connection of the same node takes the session over,
and this one says its last words and goes. What frames mean, it doesn't know. RFC 6455.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import ClientConnectionError, WSCloseCode, WSMsgType, web

from nanny.protocol.session_events import BacklogFull
from server_stub import fault_point
from server_stub.store.task_guard import outside_transactions

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from nanny.protocol.link_session import LinkSession
    from nanny.protocol.messages import Role, ServerMessage
    from server_stub.clock import Clock

SEND_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
FRAMES_PER_SECOND: Final = 200
"""Above this the reader rests, and TCP tells the peer."""
BYTES_PER_SECOND: Final = 512 * 1024
"""Likewise: what it costs to check a frame grows with its size, up to some 80 ms for the worst of them."""


class LinkSocket:
    """A connection, and the session that it carries once `attach` was called."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        role: Role,
        log: FilteringBoundLogger,
        clock: Clock,
    ) -> None:
        self.role = role
        self.node_id = ""
        self.session: LinkSession
        self.on_arrived: Callable[[], None] = lambda: None
        """Called when the peer is known: it has a session and, a worker, is registered."""
        self.log = log.bind(role=role.value)
        self._socket = socket
        self._transport = transport
        self._clock = clock
        self._has_session = False
        self._last_words: list[bytes] = []
        self._woken = asyncio.Event()
        self._is_closing = False
        self._writer: asyncio.Task[None] | None = None
        self._second_began_at = clock.monotonic()
        self._frames = 0
        self._bytes = 0

    @property
    def session_id(self) -> str:
        """The session that this connection carries, or carried last."""
        return self.session.session_id or ""

    def attach(self, session: LinkSession, node_id: str) -> None:
        """Carry this session from now on."""
        self.session, self.node_id, self._has_session = session, node_id, True
        self._writer = asyncio.create_task(self._write(), name=f"{self.role} writer {node_id}")
        self.flush()

    def has_session(self) -> bool:
        """Tell whether the session is still this connection's to use."""
        return self._has_session

    def yield_session(self) -> None:
        """Free the session for a newer connection, and go."""
        self.session.close("replaced", "a newer connection of this node has taken over")
        self._last_words = self.session.frames_to_send()
        self.session.connection_lost()
        self._has_session = False
        self._finish()

    def send(self, message: ServerMessage) -> bool:
        """Queue a message; False if it cannot be promised: too much is unacknowledged, or the session has moved on.

        Nothing is lost by that: what matters is told again in the node's next session.
        """
        outside_transactions("a message to a node")  # what it tells of could still be undone
        if not self._has_session:
            return False
        try:
            self.session.send(message)
        except BacklogFull:
            return False
        self.flush()
        return True

    def close(self, code: str, reason: str, retry_after_s: float | None = None) -> None:
        """Say why, and end the connection."""
        if self._has_session:
            self.session.close(code, reason, retry_after_s)
        self._finish()

    def flush(self) -> None:
        """Let the writer see what the session has to send."""
        self._woken.set()

    async def gone(self) -> None:
        """Send what is left, in bounded time, and be closed."""
        self._finish()
        if self._writer is not None:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SEND_TIMEOUT_S + CLOSE_TIMEOUT_S):
                        await self._writer
            finally:
                # A closed transport waits for its last byte: who doesn't read would keep it as long as he likes.
                if self._transport is not None and self._transport.get_write_buffer_size():
                    self._transport.abort()

    async def abandon(self) -> None:
        """Close without a word: nobody said who they are."""
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION)

    async def receive(self, timeout_s: float) -> bytes | str | None:
        """Give a frame, None when nothing came in time, or in words how the connection ended."""
        await self._rest()
        for limit_s in (timeout_s, 0.0):
            # The second look is for what came while we ourselves were late.
            try:
                async with asyncio.timeout(max(0.0, limit_s)):
                    message = await self._socket.receive()
            except TimeoutError:
                continue
            match message.type:
                case WSMsgType.BINARY:
                    frame: bytes = message.data
                    self._bytes += len(frame)
                    return frame
                case WSMsgType.PING:
                    return await self._answer_ping(message.data)
                case WSMsgType.PONG:
                    return None
                case WSMsgType.CLOSE | WSMsgType.CLOSING | WSMsgType.CLOSED:
                    return "closed"
                case WSMsgType.ERROR:
                    return f"broken: {message.data}"
                case _:
                    return f"a frame that is {message.type.name.lower()}, not binary"
        return None

    async def _answer_ping(self, said: bytes) -> str | None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.pong(said)
        except TimeoutError:
            return f"a pong was not taken within {SEND_TIMEOUT_S:g} s"
        except (ConnectionError, ClientConnectionError, RuntimeError) as error:
            return f"broken: {error}"
        return None

    def _finish(self) -> None:
        self._is_closing = True
        self._woken.set()

    async def _rest(self) -> None:
        """Let FRAMES_PER_SECOND and BYTES_PER_SECOND through, and rest for what is left of the second."""
        self._frames += 1
        elapsed_s = self._clock.monotonic() - self._second_began_at
        if elapsed_s >= 1.0:
            self._second_began_at += elapsed_s
            self._frames, self._bytes = 1, 0
        elif self._frames > FRAMES_PER_SECOND or self._bytes > BYTES_PER_SECOND:
            await asyncio.sleep(1.0 - elapsed_s)

    async def _write(self) -> None:
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                is_closing = self._is_closing
                frames = self.session.frames_to_send() if self._has_session else self._last_words
                for frame in frames:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await self._socket.send_bytes(frame)
                    fault_point.reach("frame written")
                if is_closing:
                    break
            await self._socket.close(code=WSCloseCode.OK)
        except (TimeoutError, ConnectionError, ClientConnectionError, RuntimeError) as error:
            self.log.info("cannot send", problem=f"{type(error).__name__}: {error}")
            if self._transport is not None:
                self._transport.abort()
