"""Routes for commands: order, list, look, wait for the outcome.

What a command may be is `command_request.py`'s, what becomes of it `Commands`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import web

from nanny.protocol.incarnation import Incarnation
from server_stub import command_request
from server_stub.authorisation import Permission
from server_stub.problems import Problem
from server_stub.routing import Route, Routes, json_body, limit_of, wait_s_of
from server_stub.store import commands as command_store

if TYPE_CHECKING:
    from server_stub.store.nodes import NodeRecord

OPEN_COMMANDS_LIMIT: Final = 100


class CommandRoutes(Routes):
    """What one can order, and read of orders."""

    ROUTES: ClassVar = (
        Route(
            "POST",
            "/v1/nodes/{node}/commands",
            Permission.COMMAND,
            "202 and the new command; `Idempotency-Key`",
            "post_command",
        ),
        Route(
            "GET",
            "/v1/nodes/{node}/commands",
            Permission.OBSERVE,
            "its newest commands; `limit`",
            "get_node_commands",
        ),
        Route(
            "GET",
            "/v1/commands",
            Permission.OBSERVE,
            "the newest commands of all nodes; `limit`",
            "get_commands",
        ),
        Route(
            "GET",
            "/v1/commands/{command}",
            Permission.OBSERVE,
            "one command; `wait_s`: until it ended",
            "get_command",
        ),
    )

    async def post_command(self, request: web.Request) -> web.Response:
        """Store a command and send it on its way."""
        services = self.services
        record = await self.find_node(request)
        key = command_request.parse_key(request.headers.get("Idempotency-Key"))
        default_actor = f"api@{request.remote or 'unknown'}"
        wanted = command_request.parse(await json_body(request), record.id, default_actor)
        target = wanted.target
        if isinstance(target, str):
            target = self._current_incarnation(record)
        if services.commands.count_open(record.id) >= OPEN_COMMANDS_LIMIT:
            raise Problem(
                "too-many-open-commands", f"{record.name} has {OPEN_COMMANDS_LIMIT} unfinished commands"
            )
        command, is_new = await services.commands.submit(
            node_id=record.id,
            kind=wanted.kind,
            reason=wanted.reason,
            actor=wanted.actor,
            time_to_live_s=wanted.time_to_live_s,
            target=target,
            parameters=wanted.parameters,
            idempotency_key=key,
            fingerprint=wanted.fingerprint,
        )
        async with services.database.reading() as session:
            now = await command_store.find(session, command.id) or command
        headers = {"Location": f"/v1/commands/{command.id}"}
        return web.json_response(services.views.command(now), status=202 if is_new else 200, headers=headers)

    def _current_incarnation(self, record: NodeRecord) -> Incarnation:
        nanny = self.services.arrivals.of(record.id).nanny
        if nanny is not None and nanny.incarnation is not None:
            return nanny.incarnation
        if record.incarnation is None:
            detail = f"neither the nanny nor the worker of {record.name} has told its incarnation"
            raise Problem("incarnation-unknown", f"{detail}; name one, or null for any")
        return Incarnation.parse(record.incarnation)

    async def get_command(self, request: web.Request) -> web.Response:
        """Show one command, when it is finished or the time is over."""
        services, command_id = self.services, request.match_info["command"]
        ends_at = services.clock.monotonic() + wait_s_of(request)
        while True:
            revision = services.changes.revision(command_id)
            async with services.database.reading() as session:
                command = await command_store.find(session, command_id)
            if command is None:
                raise Problem("no-such-command", f"there is no command {command_id[:64]!r}")
            left_s = ends_at - services.clock.monotonic()
            if command.is_finished or left_s <= 0 or services.changes.is_closed:
                return web.json_response(services.views.command(command))
            await services.changes.wait_beyond(command_id, revision, left_s)

    async def get_node_commands(self, request: web.Request) -> web.Response:
        """List a node's newest commands."""
        record = await self.find_node(request)
        return await self._list_commands(request, record.id)

    async def get_commands(self, request: web.Request) -> web.Response:
        """List the newest commands of all nodes."""
        return await self._list_commands(request, None)

    async def _list_commands(self, request: web.Request, node_id: str | None) -> web.Response:
        limit = limit_of(request)
        async with self.services.database.reading() as session:
            found = await command_store.newest(session, command_store.Wanted(node_id=node_id), limit)
        return web.json_response({"commands": [self.services.views.command(command) for command in found]})
