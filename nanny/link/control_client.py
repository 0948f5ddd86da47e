"""The nanny's control socket as link uses it: requests with answers, pushes, and connecting again for ever.

The nanny may be killed, restarted, executed anew or stopped at any moment; then what was asked fails at once with
NannyUnreachable, and a new connection subscribes anew. A request that is not answered in time breaks the
connection: a nanny that does not answer is as good as none, and what it owes comes again with the next one. Lines
are bounded by the stream's limit. What answers mean, it doesn't know. `nanny/control.py` is the other end; unix(7).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING, Any, Final

from nanny.common.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.common.log_lines import LogLines
    from nanny.link.counters import Counters

LINE_LIMIT_BYTES: Final = 1 << 20
"""The most that one line from the nanny may have."""
REQUEST_LIMIT_BYTES: Final = 60_000
"""The nanny drops whoever sends 64 KiB in a line."""
CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0
BACKOFF: Final = Backoff(0.05, 1.0)
STEADY_AFTER_S: Final = 1.0
"""A connection that lived for so long makes the next failure a first one."""


class NannyUnreachable(Exception):  # noqa: N818  (a state of things, waited out)
    """No connection to the nanny, or none any more; what was asked may or may not have reached it."""


class RequestRefused(Exception):  # noqa: N818  (an answer)
    """The nanny answered that it will not do this."""

    def __init__(self, error: str, *, is_passing: bool) -> None:
        super().__init__(error)
        self.is_passing = is_passing
        """Whether asking again later may have another answer."""


class ControlClient:
    """One subscribed connection to the nanny at a time, over any number of them.

    Attributes:
        connected: set while requests can be made.
    """

    def __init__(
        self,
        path: str,
        *,
        on_connected: Callable[[dict[str, Any]], None],
        on_push: Callable[[dict[str, Any]], None],
        on_lost: Callable[[str], None],
        counters: Counters,
        log: LogLines,
    ) -> None:
        """Connect nothing yet.

        Args:
            path: of the control socket.
            on_connected: called with the answer to `subscribe`.
            on_push: called with each push, those that precede the answer to `subscribe` included.
            on_lost: called with the reason each time a connection ends or none comes about.
            counters: what is counted.
            log: where it is told.
        """
        self.connected = asyncio.Event()
        self._path = path
        self._on_connected = on_connected
        self._on_push = on_push
        self._on_lost = on_lost
        self._counters = counters
        self._log = log
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._why_broken = ""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            began_at = loop.time()
            cause, why = await self._connect_once()
            self._counters.nanny_disconnected(cause)
            self._on_lost(why)
            attempt = 1 if loop.time() - began_at >= STEADY_AFTER_S else attempt + 1
            self._log.warning("no connection to the nanny", cause=cause, why=why, path=self._path)
            await asyncio.sleep(BACKOFF.next(attempt, random()))

    async def request(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Ask, and give the result.

        Raises:
            NannyUnreachable: there is no connection, it ended, or no answer came in time.
            RequestRefused: the nanny said no, or the request is larger than it takes.
        """
        if not self.connected.is_set():
            raise NannyUnreachable("not connected")
        return await self._ask(name, timeout_s, fields)

    async def _connect_once(self) -> tuple[str, str]:
        """Give how it ended: a word for counters and a sentence."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_LIMIT_BYTES)
        except TimeoutError:
            return "connect-timeout", f"not connected within {CONNECT_TIMEOUT_S:g} s"
        except OSError as error:
            return "connect", str(error)
        self._writer, self._why_broken = writer, ""
        reading = asyncio.create_task(self._read(reader), name="control reader")
        try:
            subscribed = await self._ask("subscribe", ANSWER_TIMEOUT_S, {})
            self._counters.nanny_connections_total += 1
            self.connected.set()
            self._on_connected(subscribed)
            await asyncio.wait({reading})
            return "lost", self._why_broken or reading.result()
        except NannyUnreachable as error:
            return "lost", self._why_broken or str(error)
        except RequestRefused as error:
            return "refused", str(error)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            self._forget("the connection has ended")

    async def _ask(self, name: str, timeout_s: float, fields: dict[str, Any]) -> dict[str, Any]:
        writer = self._writer
        if writer is None:
            raise NannyUnreachable("not connected")
        self._last_id += 1
        line = json.dumps({**fields, "id": self._last_id, "do": name}).encode() + b"\n"
        if len(line) > REQUEST_LIMIT_BYTES:
            raise RequestRefused(
                f"{name} has {len(line)} bytes; the nanny takes {REQUEST_LIMIT_BYTES}", is_passing=False
            )
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        request_id = self._last_id
        self._answers[request_id] = answer
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(line)
                await writer.drain()
                message = await answer
        except TimeoutError:
            self._forget(f"no answer to {name} within {timeout_s:g} s")
            raise NannyUnreachable(self._why_broken) from None
        except OSError as error:
            self._forget(str(error))
            raise NannyUnreachable(str(error)) from None
        finally:
            self._answers.pop(request_id, None)
        if message.get("ok") is not True:
            raise RequestRefused(str(message.get("error")), is_passing=message.get("retry") is True)
        result = message.get("result")
        return result if isinstance(result, dict) else {}

    async def _read(self, reader: asyncio.StreamReader) -> str:
        """Take lines in until there are no more, and say why."""
        why = "the nanny closed the connection"
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                self._take(line)
        except ValueError as error:
            self._counters.pushes_refused_total += 1
            why = f"not a line of the control protocol: {error}"
        except OSError as error:
            why = str(error)
        self._forget(why)
        return why

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("a line nested too deep") from None
        if not isinstance(message, dict):
            raise ValueError("a line that is no JSON object")  # noqa: TRY004  (one exception for all bad lines)
        if "push" in message:
            try:
                self._on_push(message)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                self._counters.pushes_refused_total += 1
                self._log.error("push not understood", push=message.get("push"), why=repr(error))
            return
        request_id = message.get("id")
        answer = self._answers.get(request_id) if isinstance(request_id, int) else None
        if answer is not None and not answer.done():
            answer.set_result(message)
        elif request_id is None and message.get("ok") is False:
            self._why_broken = str(message.get("error"))  # what the nanny says before it closes

    def _forget(self, why: str) -> None:
        """Break the connection, if it still is one, and let nobody wait for it."""
        self.connected.clear()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._why_broken = self._why_broken or why
        writer.transport.abort()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(NannyUnreachable(self._why_broken))
                answer.exception()  # seen: whoever asked may have given up by another way
        self._answers.clear()
