"""Events as a stream of server-sent events: each with its number as the id, from which a reader takes it up again.

A reader that takes nothing for `WRITE_TIMEOUT_S` is let go; it costs nobody else anything, and what it missed
it gets when it comes back with Last-Event-ID. Knows no filters and no database.
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from server_stub.changes import EVENTS, TooManyWaiters
from server_stub.cloud_events import cloud_event
from server_stub.problems import Problem
from server_stub.store.faults import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server_stub.changes import Changes
    from server_stub.store.events import LoggedEvent, Query

    Read = Callable[[Query], Awaitable[tuple[list[LoggedEvent], int]]]

MEDIA_TYPE: Final = "text/event-stream"
SILENCE_S: Final = 15.0
"""After so long without an event its number alone goes out: proxies keep the connection, and a reader that is gone
is noticed."""
WRITE_TIMEOUT_S: Final = 30.0


async def stream(request: web.Request, changes: Changes, query: Query, read: Read) -> web.StreamResponse:
    """Send events until the reader or the server goes.

    Raises:
        Problem: the first reading's; a later one ends the stream, and the reader learns it when it comes back.
    """
    await read(query)
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"})
    await response.prepare(request)
    with suppress(ConnectionError, TimeoutError, TooManyWaiters, Problem, DatabaseUnavailable):
        await _write(response, b": events of nodenanny\n\n")
        while not changes.is_closed:
            revision = changes.revision(EVENTS)
            found, after = await read(query)
            query = replace(query, after=after)
            if found:
                await _write(response, b"".join(map(_frame, found)))
                continue
            await changes.wait_beyond(EVENTS, revision, SILENCE_S)
            if changes.revision(EVENTS) == revision:
                await _write(response, b"id: %d\n\n" % after)
    return response


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(chunk)


def _frame(event: LoggedEvent) -> bytes:
    rendered = cloud_event(event)
    return f"id: {event.seq}\nevent: {rendered['type']}\ndata: {json.dumps(rendered)}\n\n".encode()
