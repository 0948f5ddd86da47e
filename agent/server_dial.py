"""Reaching the server: names resolved by disposable probes, TLS verified, one connection, no redirects.

getaddrinfo can hang for as long as a name server does, and in the loop's executor it would take a thread with
each try; so the probe pool asks. Loopback alone needs no TLS and no trusted certificate. Nothing is retried
here. RFC 6455, RFC 9110 10.2.3 (Retry-After), tcp(7).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.config import host_of, is_loopback
from agent.telemetry.probe_result import ProbeUnknown
from nanny.protocol.codec import DEFAULT_FRAME_BYTES

if TYPE_CHECKING:
    from types import SimpleNamespace

    from agent.telemetry.probe_pool import ProbePool

PATH: Final = "/v1/worker"
_CLOSE_TIMEOUT_S: Final = 1.0
_UNCONFIRMED_LIMIT_MS: Final = 60_000
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class DialFailed(Exception):  # noqa: N818  (what happened, not whose bug)
    """No connection; `kind` is a word for counting, `retry_after_s` what the server asked for."""

    def __init__(self, kind: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.retry_after_s = retry_after_s


class Dialler:
    """Makes one WebSocket connection at a time to the server's endpoint for workers."""

    def __init__(self, server_url: str, ca_file: str | None, pool: ProbePool, timeout_s: float) -> None:
        """Prepare, which reads the trusted certificates: not in the loop.

        Raises:
            OSError: `ca_file` cannot be read, or holds no certificates.
        """
        self.url = endpoint_of(server_url)
        self._resolver = ProbeResolver(pool, timeout_s)
        self._timeout_s = timeout_s
        self._tls = tls_context(server_url, ca_file)
        self._http: aiohttp.ClientSession | None = None

    async def dial(self) -> aiohttp.ClientWebSocketResponse:
        """Connect; the connection is to be given to `hang_up`.

        Raises:
            DialFailed: there is no connection; why.
        """
        self._http = self._session()
        limit_s = 2 * self._timeout_s
        try:
            async with asyncio.timeout(limit_s):
                websocket = await self._http.ws_connect(
                    self.url,
                    max_msg_size=DEFAULT_FRAME_BYTES,
                    compress=0,
                    autoping=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except BaseException as error:
            await self._http.close()
            failed = _as_failure(error, limit_s)
            if failed is None:
                raise
            raise failed from None
        with suppress(OSError):
            # What we sent and a vanished peer never confirms would keep the socket for a quarter of an hour.
            websocket.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNCONFIRMED_LIMIT_MS
            )
        return websocket

    async def hang_up(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        """Drop the connection without waiting for the peer."""
        transport_socket = websocket.get_extra_info("socket")
        if transport_socket is not None:
            # A peer that does not read would keep what is buffered for as long as it likes; uvloop's stand-in for
            # a socket has no shutdown of its own.
            with suppress(OSError), socket.socket(fileno=os.dup(transport_socket.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        connector = aiohttp.TCPConnector(
            limit=1,
            force_close=True,
            resolver=self._resolver,
            use_dns_cache=False,
            ssl=True if self._tls is None else self._tls,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s),
        )


class ProbeResolver(AbstractResolver):
    """Names to addresses by the probe ``resolve``: a name server that hangs costs a child, not a thread."""

    def __init__(self, pool: ProbePool, deadline_s: float) -> None:
        self._pool = pool
        self._deadline_s = deadline_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses of `host`.

        Raises:
            OSError: there are none, or none in time.
        """
        result = await self._pool.run("resolve", {"host": host, "port": port}, self._deadline_s)
        if isinstance(result, ProbeUnknown):
            raise OSError(None, f"cannot resolve {host}: {result.detail}")
        found = [_resolved(host, str(address), port) for address in result.value]
        wanted = [each for each in found if family in {socket.AF_UNSPEC, each["family"]}]
        if not wanted:
            raise OSError(None, f"cannot resolve {host}: no address of the wanted family")
        return wanted

    async def close(self) -> None:
        """Nothing is held."""


def _as_failure(error: BaseException, limit_s: float) -> DialFailed | None:
    match error:
        case aiohttp.WSServerHandshakeError():
            return DialFailed("http", f"answered {error.status}", _retry_after_s(error.headers))
        case TimeoutError():
            return DialFailed("timeout", f"no WebSocket within {limit_s:g} s")
        case aiohttp.ClientConnectorDNSError():
            return DialFailed("name", str(error))
        case aiohttp.ClientSSLError():
            return DialFailed("tls", str(error))
        case aiohttp.ClientError() | OSError() | ValueError():
            return DialFailed("connect", f"{type(error).__name__}: {error}")
        case _:
            return None


def endpoint_of(server_url: str) -> str:
    """The worker's endpoint of a server, as a ws or wss URL."""
    scheme, _, rest = server_url.partition("://")
    secure = scheme in {"https", "wss"}
    return f"{'wss' if secure else 'ws'}://{rest.rstrip('/')}{PATH}"


def tls_context(server_url: str, ca_file: str | None) -> ssl.SSLContext | None:
    """The TLS settings for a server; None where none is spoken.

    Raises:
        OSError: `ca_file` cannot be read, or holds no certificates.
    """
    if not server_url.startswith(("https://", "wss://")):
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OSError(f"server_ca_file {ca_file!r} cannot be used: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None and is_loopback(host_of(server_url)):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _resolved(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=_NUMERIC)


def _retry_after_s(headers: object) -> float | None:
    text = headers.get("Retry-After", "") if hasattr(headers, "get") else ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


async def _refuse_redirect(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    params: aiohttp.TraceRequestRedirectParams,
) -> None:
    raise aiohttp.ClientError(f"the server redirects ({params.response.status}), which is not followed")
