"""One check of one node: GET /healthz, short tries within one budget, and the class of what came of it.

A single failed try is nothing; a spent budget is the result. Connections are kept between checks; after any
failure the next try uses a fresh one, since a kept one may belong to a worker that hangs or is gone.
Answers of a worker (ok, stalled) end the check at once; the nanny's stand-in answer does not, for the
worker may be back in a moment. Follows no redirects, uses no proxy, reads a bounded body. Knows no database
and no thresholds.
"""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from yarl import URL

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from server_stub.core.node_facts import ProbeClass, ProbeFact

if TYPE_CHECKING:
    from server_stub.clock import Clock
    from server_stub.metrics import Metrics

BODY_LIMIT_BYTES: Final = 64 * 1024
WHERE_LIMIT: Final = 200
LONGEST_PAUSE_S: Final = 1.0

_OUR_FAULT: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)
_NO_ROUTE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH})
_FINAL: Final = frozenset({ProbeClass.OK, ProbeClass.STALLED, ProbeClass.SERVER_FAULT})


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How long a check may take, in seconds."""

    budget_s: float = 10.0
    try_timeout_s: float = 2.5
    interval_s: float = 15.0
    pause_s: float = 0.25
    """Between the first two tries; it doubles up to LONGEST_PAUSE_S."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one try came to."""

    result: ProbeClass
    status: str | None = None
    incarnation: Incarnation | None = None
    where: str | None = None


class Prober:
    """The connections to all nodes' /healthz. Use as an async context manager."""

    def __init__(self, settings: ProbeSettings, clock: Clock, metrics: Metrics) -> None:
        self.settings = settings
        self._clock = clock
        self._metrics = metrics
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=self.settings.interval_s * 2)
        self._kept = _session(kept)
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kept.close()
        await self._fresh.close()

    async def check(self, node_id: str, host: str, port: int) -> ProbeFact:
        """Give what the whole check came to; never raises but when cancelled."""
        try:
            url = URL.build(scheme="http", host=host, port=port, path="/healthz")
        except ValueError:
            now = self._clock.monotonic()
            return ProbeFact(ProbeClass.DNS, now, now)  # what the worker told is no address at all
        ends_at = self._clock.monotonic() + self.settings.budget_s
        session, pause_s = self._kept, self.settings.pause_s
        while True:
            left_s = max(0.0, ends_at - self._clock.monotonic())
            answer = await self._try(session, url, node_id, min(self.settings.try_timeout_s, left_s))
            self._metrics.count("probe_tries_total")
            left_s = ends_at - self._clock.monotonic()
            if answer.result in _FINAL or left_s <= pause_s:
                break
            await asyncio.sleep(pause_s)
            session, pause_s = self._fresh, min(pause_s * 2, LONGEST_PAUSE_S)
        self._metrics.count("probes_total", result=answer.result)
        now = self._clock.monotonic()
        return ProbeFact(answer.result, now, now, answer.status, answer.incarnation, answer.where)

    async def _try(self, session: aiohttp.ClientSession, url: URL, node_id: str, timeout_s: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_s), session.get(url, allow_redirects=False) as response:
                body = await _read_bounded(response)
                return classify(response.status, body, node_id)
        except TimeoutError:
            return Answer(ProbeClass.TIMEOUT)
        except aiohttp.ClientConnectorDNSError:
            return Answer(ProbeClass.DNS)
        except (aiohttp.ClientOSError, OSError) as error:
            return _classify_os_error(error)
        except aiohttp.ServerDisconnectedError:
            return Answer(ProbeClass.RESET)
        except (aiohttp.ClientError, ValueError):
            return Answer(ProbeClass.BAD_ANSWER)
        except Exception as error:  # our own bug must not end the node's checks
            return Answer(ProbeClass.SERVER_FAULT, where=f"{type(error).__name__}: {error}"[:WHERE_LIMIT])


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"User-Agent": "nodenanny-server"},
    )


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > BODY_LIMIT_BYTES:
            response.close()
            raise ValueError(f"a body of more than {BODY_LIMIT_BYTES} bytes")
    return body


def classify(status_code: int, body: bytes, node_id: str) -> Answer:
    """Read an answer of /healthz: 200 or 503 with a JSON object that has a `status`."""
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("node_id", node_id) != node_id:
        return Answer(ProbeClass.BAD_ANSWER)
    incarnation = _incarnation(content.get("incarnation"))
    where = content.get("stalled_at")
    where = where[:WHERE_LIMIT] if isinstance(where, str) else None
    match status_code, content.get("status"):
        case 200, ("ok" | "starting" | "degraded") as status:
            return Answer(ProbeClass.OK, status, incarnation)
        case 503, "stalled":
            return Answer(ProbeClass.STALLED, "stalled", incarnation, where)
        case 503, "fallback":
            return Answer(ProbeClass.FALLBACK, "fallback", incarnation)
        case _:
            return Answer(ProbeClass.BAD_ANSWER)


def _incarnation(told: object) -> Incarnation | None:
    if not isinstance(told, str):
        return None
    try:
        return Incarnation.parse(told)
    except ProtocolViolation:
        return None


def _classify_os_error(error: OSError) -> Answer:
    if error.errno in _OUR_FAULT:
        return Answer(ProbeClass.SERVER_FAULT, where=errno.errorcode.get(error.errno or 0, str(error)))
    if error.errno in _NO_ROUTE:
        return Answer(ProbeClass.NO_ROUTE)
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return Answer(ProbeClass.REFUSED)
    return Answer(ProbeClass.TIMEOUT if error.errno == errno.ETIMEDOUT else ProbeClass.RESET)
