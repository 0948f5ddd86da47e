"""The HTTP interface, assembled: all routes, each behind the one point that may refuse it.

`ROUTES` is the whole table; every route passes `Authorisation.allow` and no other way leads to a handler.
Answers are JSON, errors are problem documents. With `wait_s` a read waits until what it asks for is there,
or the time is over, and answers in any case; the reader sees from the answer which. Decisions are made
elsewhere, the routes' own files are in `server_stub/routes/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from server_stub.openapi import openapi
from server_stub.parameter_check import check
from server_stub.problems import problems_middleware
from server_stub.routes.brakes import BrakeRoutes
from server_stub.routes.commands import CommandRoutes
from server_stub.routes.connections import ConnectionRoutes
from server_stub.routes.events import EventRoutes
from server_stub.routes.evidence import EvidenceRoutes
from server_stub.routes.maintenance import MaintenanceRoutes
from server_stub.routes.node_changes import NodeChangeRoutes
from server_stub.routes.nodes import NodeRoutes
from server_stub.routes.rollouts import RolloutRoutes
from server_stub.routes.server import DESCRIPTION, ServerRoutes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server_stub.routing import Route, Routes, Services

BODY_LIMIT_BYTES: Final = 512 * 1024
"""The longest list of nodes, each by its id, has to fit."""

SUBJECTS: Final[tuple[type[Routes], ...]] = (
    NodeRoutes,
    NodeChangeRoutes,
    MaintenanceRoutes,
    CommandRoutes,
    RolloutRoutes,
    BrakeRoutes,
    EventRoutes,
    EvidenceRoutes,
    ConnectionRoutes,
    ServerRoutes,
)
ROUTES: Final[tuple[Route, ...]] = tuple(route for subject in SUBJECTS for route in subject.ROUTES)


def application(services: Services) -> web.Application:
    """Give the aiohttp application."""
    made = web.Application(
        middlewares=[problems_middleware(services.log, services.metrics)], client_max_size=BODY_LIMIT_BYTES
    )
    made[DESCRIPTION] = openapi(ROUTES)
    for subject in SUBJECTS:
        routes = subject(services)
        for route in subject.ROUTES:
            made.router.add_route(route.method, route.path, _guarded(services, routes, route))
    return made


def _guarded(
    services: Services, routes: Routes, route: Route
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(routes, route.handler)

    async def guarded(request: web.Request) -> web.StreamResponse:
        services.authorisation.allow(request, route.permission)
        check(request, route)
        return await handler(request)

    return guarded
