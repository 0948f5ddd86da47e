"""Routes for the event log: what happened after a number, as soon as something did."""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from server_stub import events
from server_stub.authorisation import Permission
from server_stub.changes import EVENTS
from server_stub.routing import Route, Routes, integer_of, limit_of, wait_s_of


class EventRoutes(Routes):
    """What one can read of events."""

    ROUTES: ClassVar = (
        Route(
            "GET", "/v1/events", Permission.OBSERVE, "events after `after`; `limit`, `wait_s`", "get_events"
        ),
    )

    async def get_events(self, request: web.Request) -> web.Response:
        """List events after a number, as soon as there is one or the time is over."""
        services, limit = self.services, limit_of(request)
        after = integer_of(request, "after", 0, 0) or 0
        ends_at = services.clock.monotonic() + wait_s_of(request)
        while True:
            revision = services.changes.revision(EVENTS)
            async with services.database.reading() as session:
                found = await events.after(session, after, limit)
            left_s = ends_at - services.clock.monotonic()
            if found or left_s <= 0 or services.changes.is_closed:
                break
            await services.changes.wait_beyond(EVENTS, revision, left_s)
        newest = found[-1].seq if found else after
        return web.json_response({"events": [services.views.event(row) for row in found], "after": newest})
