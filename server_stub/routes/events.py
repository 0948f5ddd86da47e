"""Routes for the event log: what happened after a number, as soon as something did, as a list or as a stream.

A reader keeps `after` of the last answer. One whose number is older than what is kept, or beyond what there
is, gets `events-gone` with the numbers there are: nothing is skipped without a word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.changes import EVENTS
from server_stub.cloud_events import cloud_event, short_type
from server_stub.event_stream import MEDIA_TYPE, stream
from server_stub.problems import Problem
from server_stub.routing import (
    LIMIT,
    WAIT_S,
    Parameter,
    Route,
    Routes,
    choice_of,
    instant_of,
    integer_of,
    limit_of,
    wait_s_of,
)
from server_stub.store import events, nodes
from server_stub.store.events import Query

if TYPE_CHECKING:
    from server_stub.store.events import LoggedEvent

TYPES: Final = 16
TYPE_LENGTH: Final = 80
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_INSTANT: Final = {"type": "string", "format": "date-time"}


class EventRoutes(Routes):
    """What one can read of events."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/v1/events",
            Permission.OBSERVE,
            "events after a number, as CloudEvents; as a stream if `text/event-stream` is accepted",
            "get_events",
            query=(
                Parameter("after", _NUMBER, "Only events with higher numbers; 0: from the oldest kept."),
                Parameter("before", _NUMBER, "Only events with lower numbers."),
                Parameter(
                    "type",
                    {"type": "string", "pattern": "^[a-z.,-]{1,200}$"},
                    "Only types that begin with one of these, comma-separated.",
                ),
                Parameter(
                    "node",
                    {"type": "string", "minLength": 1, "maxLength": 256},
                    "Only events of this node, by name or id.",
                ),
                Parameter("since", _INSTANT, "Only events at or after this instant (RFC 3339)."),
                Parameter("until", _INSTANT, "Only events before this instant."),
                Parameter("order", {"enum": ["asc", "desc"]}, "`desc`: the newest first."),
                LIMIT,
                WAIT_S,
            ),
            headers=(Parameter("Last-Event-ID", _NUMBER, "Of a stream that is taken up again: as `after`."),),
            response="EventList",
            problems=("events-gone",),
            content_types=("application/json", MEDIA_TYPE),
        ),
    )

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        """List events after a number, as soon as there is one or the time is over."""
        services, query, wait_s = self.services, await self._query(request), wait_s_of(request)
        if MEDIA_TYPE in request.headers.get("Accept", ""):
            query = replace(query, newest_first=False)
            return await stream(request, services.changes, query, self._read)
        ends_at = services.clock.monotonic() + wait_s
        while True:
            revision = services.changes.revision(EVENTS)
            found, after = await self._read(query)
            left_s = ends_at - services.clock.monotonic()
            if found or left_s <= 0 or services.changes.is_closed:
                return web.json_response({"events": [cloud_event(event) for event in found], "after": after})
            await services.changes.wait_beyond(EVENTS, revision, left_s)
            if not query.newest_first:
                query = replace(query, after=after)

    async def _read(self, query: Query) -> tuple[list[LoggedEvent], int]:
        """Give events, and the number from which to read on: nothing that is wanted lies between."""
        async with self.services.database.reading() as session:
            there = await events.kept(session)
            if not query.newest_first:
                _check_cursor(query.after, there)
            before = there.newest + 1 if query.before is None else min(query.before, there.newest + 1)
            found = await events.read(session, replace(query, before=before))
        if query.newest_first or len(found) < query.limit:
            return found, max(query.after, before - 1)
        return found, found[-1].seq

    async def _query(self, request: web.Request) -> Query:
        resumed = request.headers.get("Last-Event-ID")
        after = integer_of(request, "after", 0, 0) or 0
        if resumed is not None:
            if not resumed.isascii() or not resumed.isdecimal() or len(resumed) > 18:
                raise Problem("invalid", "Last-Event-ID: expected the id of an event", field="Last-Event-ID")
            after = int(resumed)
        return Query(
            after=after,
            before=integer_of(request, "before", None, 0),
            type_prefixes=_types_of(request),
            node_id=await self._node_id_of(request),
            since_wall_at=instant_of(request, "since"),
            until_wall_at=instant_of(request, "until"),
            newest_first=choice_of(request, "order", ("asc", "desc"), "asc") == "desc",
            limit=limit_of(request),
        )

    async def _node_id_of(self, request: web.Request) -> str | None:
        """Give the id; what no node is called now may be the id of one that is gone."""
        name = request.query.get("node")
        if name is None:
            return None
        if not 0 < len(name) <= 256 or not name.isprintable():
            raise Problem("invalid", "node: expected a node's name or id", field="node")
        async with self.services.database.reading() as session:
            record = await nodes.find(session, name)
        return name if record is None else record.id


def _types_of(request: web.Request) -> tuple[str, ...]:
    text = request.query.get("type")
    if text is None:
        return ()
    types = tuple(filter(None, map(short_type, text.split(","))))
    is_plain = all(character in "abcdefghijklmnopqrstuvwxyz.-," for character in text)
    if not text or not is_plain or len(types) > TYPES or any(len(one) > TYPE_LENGTH for one in types):
        detail = f"type: expected at most {TYPES} beginnings of types such as node. or command.done"
        raise Problem("invalid", detail, field="type")
    return types


def _check_cursor(after: int, there: events.Kept) -> None:
    numbers: dict[str, Any] = {"oldest": there.oldest, "newest": there.newest}
    if there.misses(after):
        detail = f"events up to {there.oldest - 1} are no longer kept; read on with after={there.oldest - 1}"
        raise Problem("events-gone", detail, **numbers)
    if after > there.newest:
        detail = f"the log ends at {there.newest}: the number {after} is from another log"
        raise Problem("events-gone", detail, **numbers)
