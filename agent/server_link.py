"""The worker's own connection to the server: dial, greet, register, report, and do so again whatever happens.

Drives a `LinkSession` (its header lists the duties of this shell). A close by the server, a refusal, garbage,
silence: each costs a counted line and a wait, and none is a reason to end or to stay away; waits are spread
and bounded, also those that the server asks for. Frames come in at a bounded rate, reports wait as one.

Doesn't know what is in registrations and reports. One reader (`_converse`) and one writer a connection.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, assert_never

import aiohttp
import structlog

from agent.server_dial import DialFailed
from agent.services import pause
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import Registered, Role, SpecOffer, Welcome, WorkerReport
from nanny.protocol.session_events import (
    Established,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.identity import Identity
    from agent.server_dial import Dialler
    from agent.services import Progress
    from nanny.common.backoff import Backoff
    from nanny.protocol.messages import Registration
    from nanny.protocol.session_events import SessionEvent

_SEND_TIMEOUT_S: Final = 10.0
_LAST_WORDS_S: Final = 0.5
_FRAMES_PER_SECOND: Final = 200
_STABLE_AFTER_S: Final = 5.0
_TURN_S: Final = 5.0
DEFAULT_REPORT_INTERVAL_S: Final = 10.0


class ServerLink:
    """The connection and what was agreed upon over it.

    Attributes:
        report_interval_s: how often the server wants a report.
        is_registered: the server has stored our registration, on the present connection.
        counts: connections, and what ended them, by a word.
        spec: the newest offered spec.
    """

    def __init__(
        self,
        dialler: Dialler,
        identity: Identity,
        registration: Callable[[tuple[str, int] | None], Registration],
        backoff: Backoff,
        session_config: SessionConfig | None = None,
    ) -> None:
        """Dial nobody yet.

        Args:
            dialler: makes connections.
            identity: who we are.
            registration: gives what is to be registered towards a server at this address.
            backoff: between connections.
            session_config: of our end.
        """
        self._dialler = dialler
        self._identity = identity
        self._registration = registration
        self._backoff = backoff
        self._config = session_config or SessionConfig()
        self._session = self._fresh_session()
        self._woken = asyncio.Event()
        self._log = structlog.get_logger().bind(server=dialler.url)
        self._peer: tuple[str, int] | None = None
        self._registered: Registration | None = None
        self._retry_after_s: float | None = None
        self._established_at: float | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.report_interval_s = DEFAULT_REPORT_INTERVAL_S
        self.is_registered = False
        self.counts: Counter[str] = Counter()
        self.spec: SpecOffer | None = None

    @property
    def is_open(self) -> bool:
        """Messages flow."""
        return self._session.state is State.OPEN

    def send_report(self, report: WorkerReport) -> None:
        """Send a report now, or the newest of them as soon as there is a connection."""
        if self.is_open:
            self._session.send(report)
            self._woken.set()

    def refresh_registration(self) -> bool:
        """Register anew if what is to be registered has changed; True if so."""
        if not self.is_open or self._registered is None:
            return False
        registration = self._registration(self._peer)
        if _without_age(registration) == _without_age(self._registered):
            return False
        self.counts["registration-changed"] += 1
        self._log.info("registering anew", addresses=registration.addresses)
        self._register(registration)
        return True

    async def run(self, progress: Progress) -> None:
        """Be connected, for ever."""
        failures = 0
        try:
            while True:
                progress.touch()
                self._retry_after_s = self._established_at = None
                await self._connect_once(progress)
                failures = 1 if self._was_stable() else failures + 1
                wait_s = self._backoff.next(failures, random.random(), self._retry_after_s)
                self._log.info("connecting again", in_s=round(wait_s, 2), failures=failures)
                await pause(wait_s, progress)
        finally:
            self._forget_connection()
            await self._dialler.hang_up()

    def _was_stable(self) -> bool:
        return self._established_at is not None and _now() - self._established_at > _STABLE_AFTER_S

    # One connection

    async def _connect_once(self, progress: Progress) -> None:
        try:
            websocket = await self._dialler.dial()
        except DialFailed as failed:
            self.counts[f"dial-{failed.kind}"] += 1
            self._retry_after_s = failed.retry_after_s
            self._log.warning("no connection to the server", reason=str(failed))
            return
        peername = websocket.get_extra_info("peername")
        self._peer = (str(peername[0]), int(peername[1])) if isinstance(peername, tuple) else None
        self._session.connection_made(self._identity.hello(), _now())
        writer = asyncio.create_task(self._write(websocket), name="server-link writer")
        self._woken.set()
        try:
            await self._converse(websocket, progress)
        except asyncio.CancelledError:
            # We are stopping: say so, so that the server need not find out.
            if self._session.state is not State.OFFLINE:
                self._session.close("shutting-down", "the worker is stopping")
            raise
        finally:
            await self._finish(websocket, writer)

    async def _converse(self, websocket: aiohttp.ClientWebSocketResponse, progress: Progress) -> None:
        """Pass frames in and act upon what they mean, until the session or the connection ends."""
        second_began_at, turns = _now(), 0
        while (deadline := self._session.next_deadline()) is not None:
            progress.touch()
            received = await _receive(websocket, deadline)
            if isinstance(received, str):
                self.counts[f"lost-{received.partition(' ')[0]}"] += 1
                self._log.info("connection to the server ended", how=received)
                return
            now = _now()
            if received is None:
                happened = self._session.handle_deadline(now)
            else:
                happened = self._session.receive_frame(received, now)
            for event in happened:
                self._act(event)
            self._woken.set()
            turns += 1
            if now - second_began_at >= 1.0:
                second_began_at, turns = now, 0
            elif turns >= _FRAMES_PER_SECOND:
                self.counts["flooded"] += 1
                await asyncio.sleep(1.0 - (now - second_began_at))

    async def _write(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                for frame in self._session.frames_to_send():
                    async with asyncio.timeout(_SEND_TIMEOUT_S):
                        await websocket.send_bytes(frame)
                if self._session.state in {State.FINISHED, State.OFFLINE}:
                    return
        except (TimeoutError, OSError, aiohttp.ClientError, RuntimeError) as error:
            self.counts["lost-send"] += 1
            self._log.info("cannot send to the server", problem=f"{type(error).__name__}: {error}")
            # The reader learns of it by the end of the connection.
            await websocket.close(code=aiohttp.WSCloseCode.GOING_AWAY)

    async def _finish(self, websocket: aiohttp.ClientWebSocketResponse, writer: asyncio.Task[None]) -> None:
        """Send what is left, in bounded time, and drop the connection."""
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                if self._session.state is State.FINISHED:
                    await asyncio.wait({writer})
                    await websocket.close()
        writer.cancel()
        await asyncio.wait({writer})
        self._forget_connection()
        await self._dialler.hang_up()

    def _forget_connection(self) -> None:
        if self._session.state is not State.OFFLINE:
            self._session.connection_lost()
        if self._session.backlog[0]:
            # A registration that was not acknowledged would go out with the age that it had then.
            self._session = self._fresh_session()
        was_registered, self.is_registered = self.is_registered, False
        self._registered = None
        if was_registered:
            self.on_change()

    def _fresh_session(self) -> LinkSession:
        return LinkSession(Role.WORKER, Role.SERVER, self._config)

    # What came

    def _act(self, event: SessionEvent) -> None:
        match event:
            case Established(peer=peer, resumed=resumed):
                self._established_at = _now()
                self.counts["established"] += 1
                if isinstance(peer, Welcome):
                    self.report_interval_s = peer.report_interval_s
                self._log.info("connected to the server", session=self._session.session_id, resumed=resumed)
                self._register(self._registration(self._peer))
                self.on_change()
            case MessageReceived(message=Registered()):
                if not self.is_registered:
                    self.is_registered = True
                    self._log.info("registered with the server")
                    self.on_change()
            case MessageReceived(message=SpecOffer() as spec):
                self.spec = spec
            case MessageReceived():
                self.counts["not-for-us"] += 1
            case PeerClosed(code=code, reason=reason, retry_after_s=retry_after_s):
                self._end("closed", code, reason, retry_after_s)
            case SessionRefused(code=code, reason=reason, retry_after_s=retry_after_s):
                self._end("refused", code, reason, retry_after_s)
            case SessionFailed(reason=reason):
                self._end("failed", "", reason, None)
            case _:
                assert_never(event)

    def _end(self, word: str, code: str, reason: str, retry_after_s: float | None) -> None:
        self._retry_after_s = retry_after_s
        self.counts[word] += 1
        self._log.warning("the server's connection is over", how=word, code=code, reason=reason[:256])

    def _register(self, registration: Registration) -> None:
        self._session.send(registration)
        self._registered = registration
        self._woken.set()


async def _receive(websocket: aiohttp.ClientWebSocketResponse, deadline: float) -> bytes | str | None:
    """Give a frame, None when nothing came in time, or in words how the connection ended."""
    for until in (min(deadline, _now() + _TURN_S), _now()):
        # The second look is for what came while we ourselves were late.
        try:
            async with asyncio.timeout(max(0.0, until - _now())):
                message = await websocket.receive()
        except TimeoutError:
            continue
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                frame: bytes = message.data
                return frame
            case aiohttp.WSMsgType.PING:
                return await _answer_ping(websocket, message.data)
            case aiohttp.WSMsgType.PONG:
                return None
            case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                return f"closed with {websocket.close_code}"
            case aiohttp.WSMsgType.ERROR:
                return f"broken by {message.data}"[:256]
            case _:
                return f"unexpected frame of type {message.type.name.lower()}, not binary"
    return None


async def _answer_ping(websocket: aiohttp.ClientWebSocketResponse, said: bytes) -> str | None:
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await websocket.pong(said)
    except (TimeoutError, OSError, aiohttp.ClientError) as error:
        return f"broken by {type(error).__name__}"
    return None


def _without_age(registration: Registration) -> tuple[object, ...]:
    return (
        registration.incarnation,
        registration.addresses,
        registration.healthz_port,
        registration.capacity,
        registration.labels,
        registration.software_version,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
