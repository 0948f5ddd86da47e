"""The connection to the server: dialled for ever, one at a time, driving one session at our end of it.

Whatever the server does costs a counted reconnect and one log line: not answering, answering with an HTTP status,
garbage, silence, half a frame, a flood, not reading. Waits grow with full jitter, and a server that names a time is
obeyed. Frames are bounded before they are parsed, sends and connecting have deadlines, redirects are not followed.
What messages mean, it doesn't know. The session's rules are in `nanny.protocol.link_session`. RFC 6455, RFC 9110.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Final, assert_never

import aiohttp

from nanny.common.backoff import Backoff
from nanny.link.config import endpoint_of, is_encrypted
from nanny.protocol.link_session import LinkSession
from nanny.protocol.messages import Role, Welcome
from nanny.protocol.session_events import (
    BacklogFull,
    Established,
    LocalError,
    MessageReceived,
    PeerClosed,
    SessionConfig,
    SessionFailed,
    SessionRefused,
)
from nanny.protocol.session_states import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from nanny.common.log_lines import LogLines
    from nanny.link.config import LinkConfig
    from nanny.link.counters import Counters
    from nanny.protocol.messages import ApplicationMessage, Hello, LinkMessage
    from nanny.protocol.session_events import SessionEvent

SEND_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 0.3
STEADY_AFTER_S: Final = 10.0
"""An established connection that lived for so long makes the next failure a first one."""
_TCP_USER_TIMEOUT_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended, or why there was none."""

    cause: str
    """One word for counters."""
    why: str
    retry_after_s: float | None = None


class ServerConnection:
    """Link's end of the session with the server.

    Attributes:
        is_open: whether messages flow.
        wanted_report_interval_s: what the server asked for in its last Welcome, None before.
    """

    def __init__(
        self,
        config: LinkConfig,
        *,
        hello: Callable[[], Hello],
        on_established: Callable[[bool], None],
        on_message: Callable[[ApplicationMessage], None],
        counters: Counters,
        log: LogLines,
    ) -> None:
        """Dial nothing yet.

        Args:
            config: the settings.
            hello: who we are, asked for at each dial.
            on_established: called with whether the session was resumed.
            on_message: called with each message, in order; must not block.
            counters: what is counted.
            log: where it is told.
        """
        assert config.server_url is not None
        self.is_open = False
        self.wanted_report_interval_s: float | None = None
        self._config = config
        self._url = endpoint_of(config.server_url)
        self._hello = hello
        self._on_established = on_established
        self._on_message = on_message
        self._counters = counters
        self._log = log
        self._backoff = Backoff(config.backoff_base_s, config.backoff_ceiling_s)
        self._session_config = SessionConfig(hello_timeout_s=config.connect_timeout_s)
        self._session = self._fresh_session()
        self._wants_fresh_session = False
        self._woken = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._steady_at = float("inf")

    def send(self, message: LinkMessage) -> None:
        """Queue a message. When too much waits already, all of it is given up for a new session."""
        try:
            self._session.send(message)
        except BacklogFull as full:
            self.start_over("backlog-full", str(full))
        except LocalError as error:  # a bug, or a nanny with words that this wire has not
            self._log.error("message not sent", type=type(message).__name__, why=str(error))
        self._woken.set()

    def start_over(self, code: str, reason: str) -> None:
        """Forget the session: in a new one both ends send again what matters."""
        self._log.warning("beginning a new session", code=code, why=reason)
        if self._session.state is State.OFFLINE:
            self._session = self._fresh_session()
            return
        self._session.close(code, reason)
        self._wants_fresh_session = True
        self._woken.set()

    def read_on(self, *, wanted: bool) -> None:
        """Leave with the server what it sends from now on, or take it again; a handshake is read in any case."""
        if wanted:
            self._may_read.set()
        else:
            self._may_read.clear()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            self._steady_at = float("inf")
            ended = await self._connect_once()
            self._counters.disconnected(ended.cause)
            if self._wants_fresh_session:
                self._session, self._wants_fresh_session = self._fresh_session(), False
            attempt = 1 if loop.time() >= self._steady_at else attempt + 1
            wait_s = self._backoff.next(attempt, random(), ended.retry_after_s)
            self._log.warning(
                "no connection to the server",
                cause=ended.cause,
                why=ended.why,
                url=self._url,
                failures=attempt,
                retry_in_s=round(wait_s, 3),
            )
            await asyncio.sleep(wait_s)

    def _fresh_session(self) -> LinkSession:
        return LinkSession(Role.LINK, Role.SERVER, self._session_config)

    # One connection

    async def _connect_once(self) -> Ended:
        timeout_s = self._config.connect_timeout_s
        try:
            tls = self.tls()
            connector = aiohttp.TCPConnector(limit=1, force_close=True, use_dns_cache=False, ssl=tls)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            return Ended("certificates", f"cannot use the configured certificates: {error}")
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        async with aiohttp.ClientSession(
            connector=connector, trust_env=False, trace_configs=[tracing], cookie_jar=aiohttp.DummyCookieJar()
        ) as http:
            try:
                async with asyncio.timeout(timeout_s):
                    webs = await http.ws_connect(
                        self._url,
                        max_msg_size=self._session_config.max_frame_bytes,
                        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    )
            except TimeoutError:
                return Ended("connect-timeout", f"no WebSocket within {timeout_s:g} s")
            except aiohttp.WSServerHandshakeError as error:
                asked = None if error.headers is None else error.headers.get("Retry-After")
                return Ended("http-status", f"answered {error.status} {error.message}", _seconds(asked))
            except (aiohttp.ClientError, OSError, ValueError, _Redirected) as error:
                return Ended("connect", str(error) or type(error).__name__)
            return await self._carry(webs)

    def tls(self) -> ssl.SSLContext | bool:
        """Read the certificates anew at each dial, so that renewed ones need no restart.

        Raises:
            OSError, ValueError: they cannot be used.
        """
        config = self._config
        assert config.server_url is not None
        if not is_encrypted(config.server_url):
            return True
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.client_cert_file is not None:
            context.load_cert_chain(config.client_cert_file, config.client_key_file)
        return context

    async def _carry(self, webs: aiohttp.ClientWebSocketResponse) -> Ended:
        """Let the session use this connection until either end is done with it."""
        _bound_silence(webs)
        self._session.connection_made(self._hello(), asyncio.get_running_loop().time())
        self._woken.set()
        reader = asyncio.create_task(self._read(webs), name="server reader")
        writer = asyncio.create_task(self._write(webs), name="server writer")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done() and writer.result().cause == "lost":
                await asyncio.wait({reader}, timeout=CLOSE_TIMEOUT_S)  # the server's last word says more
            ended = reader.result() if reader.done() else writer.result()
        except asyncio.CancelledError:
            self._session.close("shutting-down", "link is ending")
            raise
        finally:
            self.is_open = False
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            await self._say_last_words(webs)
            self._session.connection_lost()
        return ended

    async def _say_last_words(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        with suppress(TimeoutError, OSError, aiohttp.ClientError, RuntimeError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for frame in self._session.frames_to_send():
                    await webs.send_bytes(frame)
                await webs.close()
        # A peer that does not read would keep what is buffered, and the socket, for as long as it likes.
        transport_socket = webs.get_extra_info("socket")
        if transport_socket is not None:
            with suppress(OSError):
                transport_socket.shutdown(socket.SHUT_RDWR)

    async def _write(self, webs: aiohttp.ClientWebSocketResponse) -> Ended:
        while True:
            await self._woken.wait()
            self._woken.clear()
            for frame in self._session.frames_to_send():
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await webs.send_bytes(frame)
                except TimeoutError:
                    return Ended("not-reading", f"a frame was not taken within {SEND_TIMEOUT_S:g} s")
                except (OSError, aiohttp.ClientError, RuntimeError) as error:
                    return Ended("lost", f"cannot send: {error}")
                self._counters.frames_sent_total += 1
                self._counters.bytes_sent_total += len(frame)
            if self._session.state is State.FINISHED:
                return Ended("closed", "closed by us")

    async def _read(self, webs: aiohttp.ClientWebSocketResponse) -> Ended:
        clock = asyncio.get_running_loop().time
        while True:
            deadline = self._session.next_deadline()
            if deadline is None:
                await asyncio.Event().wait()  # our last word is out: the writer ends the connection
            assert deadline is not None
            frame = await self._receive(webs, deadline) if await self._is_to_read(deadline) else None
            if isinstance(frame, Ended):
                return frame
            happened = (
                self._session.handle_deadline(max(deadline, clock()))
                if frame is None
                else self._session.receive_frame(frame, clock())
            )
            for event in happened:
                ended = self._act(event, is_silence=frame is None)
                if ended is not None:
                    return ended
            self._woken.set()

    async def _is_to_read(self, deadline: float) -> bool:
        """Wait until more may be read, False if that is not before the deadline."""
        if self._session.state is State.OPEN:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._may_read.wait()
            return self._may_read.is_set()
        return True

    async def _receive(self, webs: aiohttp.ClientWebSocketResponse, deadline: float) -> bytes | Ended | None:
        """Give a frame, None at the deadline, or how the connection ended."""
        for until in (deadline, 0.0):
            # The second look is for what came while we ourselves were late.
            try:
                async with asyncio.timeout_at(until):
                    message = await webs.receive()
            except TimeoutError:
                continue
            except (OSError, aiohttp.ClientError, RuntimeError) as error:
                # Receiving also answers pings, into a connection that may have gone meanwhile.
                return Ended("lost", f"cannot receive: {error}")
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    frame: bytes = message.data
                    self._counters.frames_received_total += 1
                    self._counters.bytes_received_total += len(frame)
                    return frame
                case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    code = "" if webs.close_code is None else f" (WebSocket code {webs.close_code})"
                    return Ended("lost", f"the connection ended without a Close{code}")
                case aiohttp.WSMsgType.ERROR:
                    self._counters.violations_total += 1
                    return Ended("violation", f"broken WebSocket frame: {message.data!r}")
                case _:
                    self._counters.violations_total += 1
                    return Ended("violation", f"a frame that is {message.type.name.lower()}, not binary")
        return None

    def _act(self, event: SessionEvent, *, is_silence: bool) -> Ended | None:
        match event:
            case Established(peer=peer, resumed=resumed):
                assert isinstance(peer, Welcome)
                self.is_open = True
                self.wanted_report_interval_s = peer.report_interval_s
                self._steady_at = asyncio.get_running_loop().time() + STEADY_AFTER_S
                self._counters.connections_total += 1
                self._log.info(
                    "connected to the server", url=self._url, session=peer.session_id, resumed=resumed
                )
                self._on_established(resumed)
            case MessageReceived(message=message):
                self._on_message(message)
            case SessionRefused(code=code, reason=reason, retry_after_s=retry_after_s):
                return Ended("refused", f"{code}: {reason}", retry_after_s)
            case PeerClosed(code=code, reason=reason, retry_after_s=retry_after_s):
                return Ended("closed", f"{code}: {reason}", retry_after_s)
            case SessionFailed(reason=reason) if is_silence and not self._may_read.is_set():
                return Ended("overloaded", f"{reason}, since we read no further")
            case SessionFailed(reason=reason) if is_silence:
                return Ended("silent", reason)
            case SessionFailed(reason=reason):
                self._counters.violations_total += 1
                return Ended("violation", reason)
            case _:
                assert_never(event)
        return None


class _Redirected(Exception):  # noqa: N818  (an answer)
    """The server wants us elsewhere, possibly without TLS: it is to be configured, not followed."""


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    raise _Redirected(f"redirected to {params.response.headers.get('Location')!r}: configure that server_url")


def _bound_silence(webs: aiohttp.ClientWebSocketResponse) -> None:
    """Let the kernel give up a peer whose machine is gone; tcp(7)."""
    transport_socket = webs.get_extra_info("socket")
    if transport_socket is not None:
        with suppress(OSError):
            transport_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)


def _seconds(header: str | None) -> float | None:
    """Retry-After as seconds; a date would depend on both clocks, and is passed over."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
