"""Routes that nodes connect to, and the one that ends such a connection for a demonstration."""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from nanny.protocol.messages import Role
from server_stub.authorisation import Permission
from server_stub.problems import Problem
from server_stub.routing import Route, Routes


class ConnectionRoutes(Routes):
    """The two WebSocket endpoints."""

    ROUTES: ClassVar = (
        Route("GET", "/v1/link", Permission.BE_NODE, "WebSocket of a node's link", "link", statuses=(101,)),
        Route(
            "GET", "/v1/worker", Permission.BE_NODE, "WebSocket of a node's worker", "worker", statuses=(101,)
        ),
        Route(
            "POST",
            "/v1/nodes/{node}/close-worker-connection",
            Permission.DEBUG,
            "202; ends the worker's connection from this side, for demonstrations",
            "post_close_worker_connection",
            response="ConnectionClosed",
            query=(),
            statuses=(202,),
            problems=("not-connected",),
        ),
    )

    async def link(self, request: web.Request) -> web.StreamResponse:
        """Speak with a node's link."""
        return await self.services.links.serve(request, Role.LINK)

    async def worker(self, request: web.Request) -> web.StreamResponse:
        """Speak with a node's worker."""
        return await self.services.links.serve(request, Role.WORKER)

    async def post_close_worker_connection(self, request: web.Request) -> web.Response:
        """End the worker's connection from the server's side."""
        record = await self.find_node(request)
        if not self.services.links.hang_up(
            Role.WORKER, record.id, "closed-by-request", "asked for through the API"
        ):
            raise Problem("not-connected", f"the worker of {record.name} is not connected")
        self.services.log.warning("worker's connection closed by request", node=record.id)
        return web.json_response({"closed": True}, status=202)
