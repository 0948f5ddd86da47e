"""The HTTP interface: routes, what each needs permission for, and what each answers.

`ROUTES` is the whole table; every route passes `Authorisation.allow` and no other way leads to a handler.
Answers are JSON, errors are problem documents. With `wait_s` a read waits until what it asks for is there,
or the time is over, and answers in any case; the reader sees from the answer which. Decisions are made
elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import Role
from server_stub import command_request, events
from server_stub.authorisation import Permission
from server_stub.changes import EVENTS, NODES
from server_stub.core.node_facts import Word
from server_stub.problems import Problem, problems_middleware
from server_stub.store import commands as command_store
from server_stub.store import nodes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from server_stub.arrivals import ArrivalsByNode
    from server_stub.authorisation import Authorisation
    from server_stub.changes import Changes
    from server_stub.clock import Clock
    from server_stub.commands import Commands
    from server_stub.links import Links
    from server_stub.metrics import Metrics
    from server_stub.store.engine import Database
    from server_stub.store.nodes import NodeRecord
    from server_stub.syncer import Syncer
    from server_stub.views import Views

BODY_LIMIT_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
LONGEST_WAIT_S: Final = 60.0
LIST_LIMIT: Final = 1000
OPEN_COMMANDS_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API."""

    method: str
    path: str
    permission: Permission
    answers: str
    """For the documentation."""
    handler: str
    """Name of the method of Api."""


ROUTES: Final = (
    Route("GET", "/v1/nodes", Permission.OBSERVE, "all nodes; `wait_s`, `revision`", "get_nodes"),
    Route(
        "GET",
        "/v1/nodes/{node}",
        Permission.OBSERVE,
        "one node by name or id; `wait_s` with `revision`, or with `until=READY` and `not_incarnation`",
        "get_node",
    ),
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
        "POST",
        "/v1/nodes/{node}/close-worker-connection",
        Permission.DEBUG,
        "202; ends the worker's connection from this side, for demonstrations",
        "post_close_worker_connection",
    ),
    Route(
        "GET", "/v1/commands", Permission.OBSERVE, "the newest commands of all nodes; `limit`", "get_commands"
    ),
    Route(
        "GET",
        "/v1/commands/{command}",
        Permission.OBSERVE,
        "one command; `wait_s`: until it ended",
        "get_command",
    ),
    Route("GET", "/v1/events", Permission.OBSERVE, "events after `after`; `limit`, `wait_s`", "get_events"),
    Route("GET", "/v1/link", Permission.BE_NODE, "WebSocket of a node's link", "link"),
    Route("GET", "/v1/worker", Permission.BE_NODE, "WebSocket of a node's worker", "worker"),
    Route("GET", "/livez", Permission.OBSERVE, "200 while the server's loop runs", "livez"),
    Route("GET", "/readyz", Permission.OBSERVE, "200 while its database answers", "readyz"),
    Route("GET", "/metrics", Permission.OBSERVE, "Prometheus text", "get_metrics"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The handlers; each is a method named in ROUTES."""

    database: Database
    arrivals: ArrivalsByNode
    syncer: Syncer
    commands: Commands
    links: Links
    changes: Changes
    views: Views
    authorisation: Authorisation
    clock: Clock
    log: FilteringBoundLogger
    metrics: Metrics

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        application = web.Application(
            middlewares=[problems_middleware(self.log, self.metrics)], client_max_size=BODY_LIMIT_BYTES
        )
        for route in ROUTES:
            application.router.add_route(route.method, route.path, self._guarded(route))
        return application

    def _guarded(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(self, route.handler)

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.authorisation.allow(request, route.permission)
            return await handler(request)

        return guarded

    # Nodes

    async def get_nodes(self, request: web.Request) -> web.Response:
        """List all nodes."""
        wait_s, seen = _wait_s(request), _integer(request, "revision", None, 0)
        if wait_s and seen is not None:
            await self.changes.wait_beyond(NODES, seen, wait_s)
        revision = self.changes.revision(NODES)
        async with self.database.reading() as session:
            records = await nodes.read(session)
        lines = [self._node_view(record) for record in records]
        return web.json_response({"nodes": lines, "revision": revision})

    async def get_node(self, request: web.Request) -> web.Response:
        """Show one node, when it is as asked for or the time is over."""
        wait_s, seen = _wait_s(request), _integer(request, "revision", None, 0)
        wanted, unwanted_life = _words(request), request.query.get("not_incarnation")
        ends_at = self.clock.monotonic() + wait_s
        while True:
            record = await self._find(request)
            revision = self.changes.revision(record.id)
            page = self._page(record, revision)
            is_as_asked = (
                (seen is None or revision != seen)
                and (not wanted or record.state in wanted)
                and (unwanted_life is None or page["incarnation"] != unwanted_life)
            )
            left_s = ends_at - self.clock.monotonic()
            if is_as_asked or left_s <= 0 or self.changes.is_closed:
                return web.json_response(page)
            await self.changes.wait_beyond(record.id, revision, left_s)

    def _node_view(self, record: NodeRecord) -> dict[str, Any]:
        verdict, arrivals = self.syncer.judge(record), self.arrivals.of(record.id)
        return self.views.node(record, arrivals, verdict, self.changes.revision(record.id))

    def _page(self, record: NodeRecord, revision: int) -> dict[str, Any]:
        return self.views.page(record, self.arrivals.of(record.id), self.syncer.judge(record), revision)

    async def _find(self, request: web.Request) -> NodeRecord:
        name = request.match_info["node"]
        async with self.database.reading() as session:
            record = await nodes.find(session, name)
        if record is None:
            raise Problem("no-such-node", f"no node, or more than one, is called {name[:128]!r}")
        return record

    async def post_close_worker_connection(self, request: web.Request) -> web.Response:
        """End the worker's connection from the server's side."""
        record = await self._find(request)
        if not self.links.hang_up(Role.WORKER, record.id, "closed-by-request", "asked for through the API"):
            raise Problem("not-connected", f"the worker of {record.name} is not connected")
        self.log.warning("worker's connection closed by request", node=record.id)
        return web.json_response({"closed": True}, status=202)

    # Commands

    async def post_command(self, request: web.Request) -> web.Response:
        """Store a command and send it on its way."""
        record = await self._find(request)
        key = command_request.parse_key(request.headers.get("Idempotency-Key"))
        if request.content_type != "application/json":
            raise Problem("malformed", "expected a body of Content-Type application/json")
        wanted = command_request.parse(await _json(request), record.id, f"api@{request.remote or 'unknown'}")
        target = wanted.target
        if isinstance(target, str):
            target = self._current_incarnation(record)
        if self.commands.count_open(record.id) >= OPEN_COMMANDS_LIMIT:
            raise Problem(
                "too-many-open-commands", f"{record.name} has {OPEN_COMMANDS_LIMIT} unfinished commands"
            )
        command, is_new = await self.commands.submit(
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
        async with self.database.reading() as session:
            now = await command_store.find(session, command.id) or command
        headers = {"Location": f"/v1/commands/{command.id}"}
        return web.json_response(self.views.command(now), status=202 if is_new else 200, headers=headers)

    def _current_incarnation(self, record: NodeRecord) -> Incarnation:
        nanny = self.arrivals.of(record.id).nanny
        if nanny is not None and nanny.incarnation is not None:
            return nanny.incarnation
        if record.incarnation is None:
            detail = f"neither the nanny nor the worker of {record.name} has told its incarnation"
            raise Problem("incarnation-unknown", f"{detail}; name one, or null for any")
        return Incarnation.parse(record.incarnation)

    async def get_command(self, request: web.Request) -> web.Response:
        """Show one command, when it is finished or the time is over."""
        command_id = request.match_info["command"]
        ends_at = self.clock.monotonic() + _wait_s(request)
        while True:
            revision = self.changes.revision(command_id)
            async with self.database.reading() as session:
                command = await command_store.find(session, command_id)
            if command is None:
                raise Problem("no-such-command", f"there is no command {command_id[:64]!r}")
            left_s = ends_at - self.clock.monotonic()
            if command.is_finished or left_s <= 0 or self.changes.is_closed:
                return web.json_response(self.views.command(command))
            await self.changes.wait_beyond(command_id, revision, left_s)

    async def get_node_commands(self, request: web.Request) -> web.Response:
        """List a node's newest commands."""
        record = await self._find(request)
        return await self._list_commands(request, record.id)

    async def get_commands(self, request: web.Request) -> web.Response:
        """List the newest commands of all nodes."""
        return await self._list_commands(request, None)

    async def _list_commands(self, request: web.Request, node_id: str | None) -> web.Response:
        limit = _integer(request, "limit", 100, 1, LIST_LIMIT) or LIST_LIMIT
        async with self.database.reading() as session:
            found = await command_store.newest(session, node_id, limit)
        return web.json_response({"commands": [self.views.command(command) for command in found]})

    # Events

    async def get_events(self, request: web.Request) -> web.Response:
        """List events after a number, as soon as there is one or the time is over."""
        after = _integer(request, "after", 0, 0) or 0
        limit = _integer(request, "limit", 100, 1, LIST_LIMIT) or LIST_LIMIT
        ends_at = self.clock.monotonic() + _wait_s(request)
        while True:
            revision = self.changes.revision(EVENTS)
            async with self.database.reading() as session:
                found = await events.after(session, after, limit)
            left_s = ends_at - self.clock.monotonic()
            if found or left_s <= 0 or self.changes.is_closed:
                break
            await self.changes.wait_beyond(EVENTS, revision, left_s)
        newest = found[-1].seq if found else after
        return web.json_response({"events": [self.views.event(row) for row in found], "after": newest})

    # Connections, and the server itself

    async def link(self, request: web.Request) -> web.StreamResponse:
        """Speak with a node's link."""
        return await self.links.serve(request, Role.LINK)

    async def worker(self, request: web.Request) -> web.StreamResponse:
        """Speak with a node's worker."""
        return await self.links.serve(request, Role.WORKER)

    async def livez(self, _request: web.Request) -> web.Response:
        """Say that the loop runs."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Say that the database answers."""
        async with self.database.reading() as session:
            number = await nodes.count(session)
        return web.json_response({"status": "ok", "nodes": number})

    async def get_metrics(self, _request: web.Request) -> web.Response:
        """Give the metrics."""
        self.metrics.set("waiting_clients", self.changes.waiters)
        return web.Response(
            text=self.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


async def _json(request: web.Request) -> Any:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise Problem("malformed", f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    try:
        return json.loads(body, object_pairs_hook=_without_repeated_names)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", f"the body is not JSON: {str(error)[:200]}") from None


def _without_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what readers of JSON read differently: an order must not be one thing here and another in a log."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _wait_s(request: web.Request) -> float:
    text = request.query.get("wait_s", "0")
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0.0 <= wait_s <= LONGEST_WAIT_S:
        raise Problem("invalid", f"wait_s: expected seconds from 0 to {LONGEST_WAIT_S:g}", field="wait_s")
    return wait_s


def _integer(
    request: web.Request, name: str, default: int | None, low: int, high: int = 2**63 - 1
) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or not low <= int(text) <= high:
        raise Problem("invalid", f"{name}: expected a whole number from {low} to {high}", field=name)
    return int(text)


def _words(request: web.Request) -> frozenset[str]:
    words = frozenset(filter(None, request.query.get("until", "").split(",")))
    if not words <= set(Word):
        raise Problem("invalid", f"until: expected words of {', '.join(Word)}", field="until")
    return words
