"""Routes about the server itself: its own livez and readyz, its metrics.

https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.problems import Problem
from server_stub.routing import Route, Routes
from server_stub.store import nodes

DESCRIPTION: Final = web.AppKey("description", dict[str, Any])
"""Where the application keeps its OpenAPI document."""


class ServerRoutes(Routes):
    """How the server is."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/livez",
            Permission.OBSERVE,
            "200 while the server's loop runs",
            "livez",
            response="Livez",
            query=(),
        ),
        Route(
            "GET",
            "/readyz",
            Permission.OBSERVE,
            "200 while its database answers",
            "readyz",
            response="Readyz",
            query=(),
        ),
        Route(
            "GET",
            "/openapi.json",
            Permission.OBSERVE,
            "this description",
            "get_openapi",
            query=(),
            response="OpenApi",
        ),
        Route(
            "GET",
            "/metrics",
            Permission.OBSERVE,
            "Prometheus text",
            "get_metrics",
            content_types=("text/plain", "application/openmetrics-text"),
            query=(),
        ),
    )

    async def livez(self, _request: web.Request) -> web.Response:
        """Say that the loop runs."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Say that the database answers."""
        why_not = await self.services.database.answers()
        if why_not is not None:
            raise Problem("database-unavailable", why_not)
        async with self.services.database.reading() as session:
            number = await nodes.count(session)
        return web.json_response({"status": "ok", "nodes": number})

    async def get_openapi(self, request: web.Request) -> web.Response:
        """Give the description of the API."""
        return web.json_response(request.app[DESCRIPTION])

    async def get_metrics(self, request: web.Request) -> web.Response:
        """Give the metrics."""
        metrics = self.services.metrics
        metrics.set("waiting_clients", self.services.changes.waiters)
        text, content_type = metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})
