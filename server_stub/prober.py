"""Checks of nodes: GET /healthz, short tries within one budget, and the class of what came of it.

A single failed try is nothing; a spent budget is the result. Connections are kept between checks; after any
failure the next try uses a fresh one, since a kept one may belong to a worker that hangs or is gone. A kept
one that its peer had closed meanwhile is replaced at once and is no try. Answers of a worker (ok, stalled)
end the check at once; the nanny's stand-in answer does not, for the worker may be back in a moment. A check
is a chain of callbacks and no task: most of them are one answer on a connection that stands. Follows no
redirects, uses no proxy. Knows no database and no thresholds.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from server_stub.core.healthz_answer import (
    BAD_ANSWER,
    DNS,
    TIMEOUT,
    WHERE_LIMIT,
    Answer,
    classify,
    classify_error,
)
from server_stub.core.node_facts import ProbeClass, ProbeFact
from server_stub.deadlines import Deadlines
from server_stub.name_lookup import NameLookup, literal
from server_stub.probe_sockets import Phase, ProbeSockets
from server_stub.store.task_guard import outside_transactions

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.clock import Clock
    from server_stub.core.http_response import BadResponse, Response
    from server_stub.deadlines import Deadline
    from server_stub.metrics import Metrics
    from server_stub.name_lookup import Address
    from server_stub.probe_sockets import ProbeConnection

LONGEST_PAUSE_S: Final = 1.0
_FINAL: Final = frozenset({ProbeClass.OK, ProbeClass.STALLED, ProbeClass.VERSION, ProbeClass.SERVER_FAULT})


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How long a check may take, in seconds."""

    budget_s: float = 10.0
    try_timeout_s: float = 2.5
    interval_s: float = 15.0
    pause_s: float = 0.25
    """Between the first two tries; it doubles up to LONGEST_PAUSE_S."""


class Prober:
    """The connections to all nodes' /healthz. Use as an async context manager."""

    sockets: ProbeSockets
    names: NameLookup
    deadlines: Deadlines

    def __init__(self, settings: ProbeSettings, clock: Clock, metrics: Metrics) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = metrics
        self.kept: dict[str, ProbeConnection] = {}
        """By node; each may have been closed by its peer since."""

    async def __aenter__(self) -> Self:
        """Open what it needs.

        Raises:
            OSError: no descriptor left.
        """
        loop = asyncio.get_running_loop()
        self.sockets = ProbeSockets(loop)
        self.names = NameLookup(loop, self.clock)
        self.deadlines = Deadlines(loop)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections; checks under way never end."""
        self.deadlines.close()
        self.names.close()
        self.sockets.close()
        self.kept.clear()

    def begin(self, node_id: str, host: str, port: int, ended: Callable[[ProbeFact], None]) -> Check:
        """Begin a check; `ended` is called once with what it came to, and not from within this call.

        Nothing raises here; `ended` must not, either. A check that is cancelled calls nobody.
        """
        outside_transactions("a probe")
        return Check(self, node_id, host, port, ended)

    async def check(self, node_id: str, host: str, port: int) -> ProbeFact:
        """Give what the whole check came to; never raises but when cancelled."""
        future = asyncio.get_running_loop().create_future()
        check = self.begin(node_id, host, port, future.set_result)
        try:
            fact: ProbeFact = await future
        finally:
            check.cancel()
        return fact

    def forget(self, node_id: str) -> None:
        """The node is gone: close what was kept for it."""
        kept = self.kept.pop(node_id, None)
        if kept is not None and kept.phase is Phase.IDLE:
            kept.close()


class Check:
    """One check under way; an `Asker` of its connection."""

    __slots__ = (
        "_began_at", "_connection", "_deadline", "_ended", "_host", "_is_looking_up", "_is_trying", "_node_id",
        "_pause_s", "_port", "_prober", "_tries",
    )  # fmt: skip

    def __init__(
        self, prober: Prober, node_id: str, host: str, port: int, ended: Callable[[ProbeFact], None]
    ) -> None:
        """Made, and begun, by `Prober.begin`."""
        self._prober = prober
        self._node_id = node_id
        self._host = host
        self._port = port
        self._ended: Callable[[ProbeFact], None] | None = ended
        self._began_at = prober.clock.monotonic()
        self._pause_s = prober.settings.pause_s
        self._tries = 0
        self._connection: ProbeConnection | None = None
        self._deadline: Deadline | None = None
        self._is_trying = False
        self._is_looking_up = False
        self._try()

    def cancel(self) -> None:
        """End it without a word; does nothing if it has ended."""
        self._ended = None
        self._drop()

    def answered(self, response: Response) -> None:
        """A whole response came; its connection is kept if it stands."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.phase is Phase.IDLE:
            self._prober.kept[self._node_id] = connection
        self._settle(classify(response.status, response.body, self._node_id))

    def refused(self, _error: BadResponse) -> None:
        """What came is no response."""
        self._connection = None
        self._settle(BAD_ANSWER)

    def failed(self, number: int) -> None:
        """The connection failed."""
        self._connection = None
        self._settle(classify_error(number))

    def closed_before(self) -> None:
        """The kept connection had been closed: the same try goes on with a fresh one."""
        self._connection = None
        self._open()

    def _left_s(self) -> float:
        return self._began_at + self._prober.settings.budget_s - self._prober.clock.monotonic()

    def _try(self) -> None:
        prober = self._prober
        self._tries += 1
        timeout_s = min(prober.settings.try_timeout_s, max(0.0, self._left_s()))
        self._deadline = prober.deadlines.after(timeout_s, self._timed_out)
        self._is_trying = True
        try:
            kept = prober.kept.pop(self._node_id, None)
            if kept is None or kept.phase is not Phase.IDLE:
                self._open()
            elif self._tries > 1 or kept.origin != (self._host, self._port):
                kept.close()
                self._open()
            else:
                self._connection = kept
                kept.ask(self)
        except Exception as error:  # our own bug must not end the node's checks
            where = f"{type(error).__name__}: {error}"[:WHERE_LIMIT]
            self._settle(Answer(ProbeClass.SERVER_FAULT, where=where))
        finally:
            self._is_trying = False

    def _open(self) -> None:
        address = literal(self._host, self._port)
        if address is not None:
            self._connect((address,))
        else:
            self._is_looking_up = True
            self._prober.names.find(self._host, self._port, partial(self._found, self._tries))

    def _found(self, asked_by_try: int, addresses: tuple[Address, ...]) -> None:
        if self._is_looking_up and asked_by_try == self._tries:
            self._is_looking_up = False
            self._connect(addresses)

    def _connect(self, addresses: tuple[Address, ...]) -> None:
        """Connect to one of the addresses, each try to another."""
        if not addresses:
            self._settle(DNS)
            return
        address = addresses[(self._tries - 1) % len(addresses)]
        try:
            self._connection = self._prober.sockets.connect(address, (self._host, self._port), self)
        except OSError as error:
            self._settle(classify_error(error.errno or errno.EIO))
        except (ValueError, OverflowError):
            self._settle(DNS)  # what the worker told is no address at all

    def _timed_out(self) -> None:
        answer = DNS if self._is_looking_up else TIMEOUT
        self._drop()
        self._settle(answer)

    def _drop(self) -> None:
        self._is_looking_up = False
        if self._deadline is not None:
            self._deadline.call_off()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()

    def _settle(self, answer: Answer) -> None:
        """A try has ended: that was the check, or there is another try after a pause."""
        if self._deadline is not None:
            self._deadline.call_off()
        if self._is_trying:
            # Whoever began the check doesn't hold it yet.
            asyncio.get_running_loop().call_soon(self._settle, answer)
            return
        ended = self._ended
        if ended is None:
            return
        prober = self._prober
        if answer.result not in _FINAL and self._left_s() > self._pause_s:
            self._deadline = prober.deadlines.after(self._pause_s, self._try)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            return
        self._ended = None
        now = prober.clock.monotonic()
        prober.metrics.count("probe_tries_total", self._tries)
        prober.metrics.count("probes_total", result=answer.result)
        prober.metrics.observe("probe_duration_seconds", now - self._began_at, result=answer.result)
        ended(ProbeFact(answer.result, now, now, answer.status, answer.incarnation, answer.where))
