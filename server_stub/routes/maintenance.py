"""Routes for maintenance: on and off for one node, or for a selection of them.

What an order may say, `server_stub/maintenance.py` knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import web

from server_stub import command_request, maintenance
from server_stub.authorisation import Permission
from server_stub.command_request import MAX_ACTOR
from server_stub.maintenance import MaintenanceOrder
from server_stub.problems import Problem
from server_stub.routes.commands import actor_of
from server_stub.routing import Parameter, Route, Routes, json_body
from server_stub.selection import choose
from server_stub.store import nodes

if TYPE_CHECKING:
    from server_stub.store.nodes import NodeRecord

_SELECTION: Final = frozenset({"nodes", "selector"})


class MaintenanceRoutes(Routes):
    """What one can order of maintenance."""

    ROUTES: ClassVar = (
        Route(
            "PUT",
            "/v1/nodes/{node}/maintenance",
            Permission.COMMAND,
            "the node in or out of maintenance: `on`, `reason`, `until`, `actor`",
            "put_maintenance",
            body="MaintenanceOrder",
            response="Maintained",
            problems=("no-such-node",),
            query=(),
        ),
        Route(
            "DELETE",
            "/v1/nodes/{node}/maintenance",
            Permission.COMMAND,
            "the node out of maintenance",
            "delete_maintenance",
            query=(
                Parameter(
                    "actor",
                    {"type": "string", "minLength": 1, "maxLength": MAX_ACTOR},
                    "Who does this; by default the client's address.",
                ),
            ),
            response="Maintained",
            problems=("no-such-node",),
        ),
        Route(
            "PUT",
            "/v1/maintenance",
            Permission.COMMAND,
            "the nodes of `nodes` or `selector` in or out of maintenance, all or none",
            "put_maintenance_of_many",
            body="MaintenanceOrderForMany",
            response="MaintainedNodes",
            problems=("no-such-node", "nothing-selected"),
            query=(),
        ),
    )

    async def put_maintenance(self, request: web.Request) -> web.Response:
        """Put one node into maintenance, or out of it."""
        record = await self.find_node(request)
        order = maintenance.parse(await json_body(request), actor_of(request), self.services.clock.wall())
        return await self._one(record, order)

    async def delete_maintenance(self, request: web.Request) -> web.Response:
        """Take one node out of maintenance."""
        record = await self.find_node(request)
        actor = command_request.text_of(dict(request.query), "actor", MAX_ACTOR, actor_of(request))
        return await self._one(record, MaintenanceOrder(None, actor))

    async def put_maintenance_of_many(self, request: web.Request) -> web.Response:
        """Put a selection of nodes into maintenance, or out of it."""
        body = await json_body(request)
        order = maintenance.parse(body, actor_of(request), self.services.clock.wall(), _SELECTION)
        selection = command_request.parse_selection(body)
        async with self.services.database.reading() as session:
            records = await choose(session, selection)
        changed = await maintenance.carry_out(self.services, [record.id for record in records], order)
        now = await self._read(records)
        lines = [self.services.views.maintained(record, is_changed=record.id in changed) for record in now]
        return web.json_response({"nodes": lines})

    async def _one(self, record: NodeRecord, order: MaintenanceOrder) -> web.Response:
        changed = await maintenance.carry_out(self.services, [record.id], order)
        now = await self._read([record])
        if not now:
            raise Problem("no-such-node", f"{record.name} was deleted meanwhile")
        return web.json_response(self.services.views.maintained(now[0], is_changed=bool(changed)))

    async def _read(self, records: list[NodeRecord]) -> list[NodeRecord]:
        async with self.services.database.reading() as session:
            return await nodes.read(session, [record.id for record in records])
