"""The worker's own connection to the server: dial, greet, register, report, and do so again whatever happens.

Drives a `LinkSession` (its header lists the duties of this shell). A close by the server, a refusal, garbage,
silence: each costs a counted line and a wait, and none is a reason to end or to stay away; waits are spread
and bounded, also those that the server asks for. Frames come in at a bounded rate, reports wait as one.

Doesn't know what is in registrations and reports. One reader and one writer a connection.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
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

SEND_TIMEOUT_S: Final = 10.0
FRAMES_PER_SECOND: Final = 200
_LAST_WORDS_S: Final = 0.3
_STEADY_AFTER_S: Final = 10.0
"""An established connection that lived for so long makes the next failure a first one."""
_TURN_S: Final = 5.0
DEFAULT_REPORT_INTERVAL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended, or why there was none."""

    cause: str
    """One word for counting."""
    why: str
    retry_after_s: float | None = None


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
        self._registration_sent: Registration | None = None
        self._steady_at = math.inf
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
        if not self.is_open or self._registration_sent is None:
            return False
        registration = self._registration(self._peer)
        if _without_age(registration) == _without_age(self._registration_sent):
            return False
        self.counts["registration-changed"] += 1
        self._log.info("registering anew", addresses=registration.addresses)
        self._register(registration)
        return True

    async def run(self, progress: Progress) -> None:
        """Be connected, for ever."""
        failures = 0
        while True:
            progress.touch()
            self._steady_at = math.inf
            ended = await self._connect_once(progress)
            self.counts[ended.cause] += 1
            failures = 1 if _now() >= self._steady_at else failures + 1
            wait_s = self._backoff.next(failures, random.random(), ended.retry_after_s)
            self._log.warning(
                "no connection to the server",
                cause=ended.cause,
                why=ended.why[:256],
                failures=failures,
                retry_in_s=round(wait_s, 3),
            )
            await pause(wait_s, progress)

    # One connection

    async def _connect_once(self, progress: Progress) -> Ended:
        try:
            websocket = await self._dialler.dial()
        except DialFailed as failed:
            return Ended(f"dial-{failed.kind}", str(failed), failed.retry_after_s)
        try:
            return await self._carry(websocket, progress)
        finally:
            await self._dialler.hang_up(websocket)

    async def _carry(self, websocket: aiohttp.ClientWebSocketResponse, progress: Progress) -> Ended:
        """Let the session use this connection until either end is done with it."""
        peername = websocket.get_extra_info("peername")
        self._peer = (str(peername[0]), int(peername[1])) if isinstance(peername, tuple) else None
        self._session.connection_made(self._identity.hello(), _now())
        self._woken.set()
        reader = asyncio.create_task(self._read(websocket, progress), name="server reader")
        writer = asyncio.create_task(self._write(websocket), name="server writer")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                await asyncio.wait({reader}, timeout=_LAST_WORDS_S)  # the server's last word says more
            return reader.result() if reader.done() else writer.result()
        except asyncio.CancelledError:
            # Told, so that the server need not find out.
            self._session.close("shutting-down", "the worker is stopping")
            raise
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            await self._say_last_words(websocket)
            self._forget_connection()

    async def _say_last_words(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        with suppress(TimeoutError, OSError, aiohttp.ClientError, RuntimeError):
            async with asyncio.timeout(_LAST_WORDS_S):
                for frame in self._session.frames_to_send():
                    await websocket.send_bytes(frame)
                await websocket.close()

    def _forget_connection(self) -> None:
        self._session.connection_lost()
        if self._session.backlog[0]:
            # A registration that was not acknowledged would go out with the age that it had then.
            self._session = self._fresh_session()
        was_registered, self.is_registered = self.is_registered, False
        self._registration_sent = None
        if was_registered:
            self.on_change()

    def _fresh_session(self) -> LinkSession:
        return LinkSession(Role.WORKER, Role.SERVER, self._config)

    async def _write(self, websocket: aiohttp.ClientWebSocketResponse) -> Ended:
        while True:
            await self._woken.wait()
            self._woken.clear()
            for frame in self._session.frames_to_send():
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await websocket.send_bytes(frame)
                except TimeoutError:
                    return Ended("not-reading", f"a frame was not taken within {SEND_TIMEOUT_S:g} s")
                except (OSError, aiohttp.ClientError, RuntimeError) as error:
                    return Ended("lost", f"cannot send: {error}")

    async def _read(self, websocket: aiohttp.ClientWebSocketResponse, progress: Progress) -> Ended:
        """Pass frames in and act upon what they mean, at a bounded rate."""
        second_began_at, turns = _now(), 0
        while True:
            progress.touch()
            deadline = self._session.next_deadline()
            assert deadline is not None, "a session that is over has told so"
            received = await _receive(websocket, min(deadline, _now() + _TURN_S))
            if isinstance(received, Ended):
                return received
            now = _now()
            if received is None:
                happened = self._session.handle_deadline(now)
            else:
                happened = self._session.receive_frame(received, now)
            for event in happened:
                ended = self._act(event, is_silence=received is None)
                if ended is not None:
                    return ended
            self._woken.set()
            turns += 1
            if now - second_began_at >= 1.0:
                second_began_at, turns = now, 0
            elif turns >= FRAMES_PER_SECOND:
                self.counts["flooded"] += 1
                await asyncio.sleep(1.0 - (now - second_began_at))

    # What came

    def _act(self, event: SessionEvent, *, is_silence: bool) -> Ended | None:
        match event:
            case Established(peer=peer, resumed=resumed):
                assert isinstance(peer, Welcome)
                self._steady_at = _now() + _STEADY_AFTER_S
                self.report_interval_s = peer.report_interval_s
                self.counts["established"] += 1
                self._log.info("connected to the server", session=peer.session_id, resumed=resumed)
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
                return Ended("closed", f"{code}: {reason}", retry_after_s)
            case SessionRefused(code=code, reason=reason, retry_after_s=retry_after_s):
                return Ended("refused", f"{code}: {reason}", retry_after_s)
            case SessionFailed(reason=reason):
                return Ended("silent" if is_silence else "violation", reason)
            case _:
                assert_never(event)
        return None

    def _register(self, registration: Registration) -> None:
        self._session.send(registration)
        self._registration_sent = registration
        self._woken.set()


async def _receive(websocket: aiohttp.ClientWebSocketResponse, deadline: float) -> bytes | Ended | None:
    """Give a frame, None when nothing for us came in time, or how the connection ended."""
    for until in (deadline, 0.0):
        # The second look is for what came while we ourselves were late.
        try:
            async with asyncio.timeout_at(until):
                message = await websocket.receive()
        except TimeoutError:
            continue
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            return Ended("lost", f"cannot receive: {error}")
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                frame: bytes = message.data
                return frame
            case aiohttp.WSMsgType.PING:
                return await _answer_ping(websocket, message.data)
            case aiohttp.WSMsgType.PONG:
                return None
            case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                return Ended("lost", f"the connection ended without a Close (code {websocket.close_code})")
            case aiohttp.WSMsgType.ERROR:
                return Ended("violation", f"broken WebSocket frame: {message.data!r}")
            case _:
                return Ended("violation", f"a frame that is {message.type.name.lower()}, not binary")
    return None


async def _answer_ping(websocket: aiohttp.ClientWebSocketResponse, said: bytes) -> Ended | None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await websocket.pong(said)
    except TimeoutError:
        return Ended("not-reading", f"a pong was not taken within {SEND_TIMEOUT_S:g} s")
    except (OSError, aiohttp.ClientError) as error:
        return Ended("lost", f"cannot send: {error}")
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
