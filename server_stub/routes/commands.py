"""Routes for commands: order, for one node or many, list, look, wait for the outcome, take back.

What a command may be is `command_request.py`'s, what becomes of it `Commands`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import web

from nanny.protocol.messages import CommandKind
from server_stub import command_request
from server_stub.authorisation import Permission
from server_stub.core.command_lifecycle import CommandState, may_be_withdrawn
from server_stub.problems import Problem
from server_stub.routing import LIMIT, WAIT_S, Parameter, Route, Routes, json_body, limit_of, wait_s_of
from server_stub.selection import choose, known_incarnation, some_of
from server_stub.store import commands as command_store
from server_stub.store import nodes
from server_stub.store.commands import OPEN, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanny.protocol.incarnation import Incarnation
    from server_stub.command_request import CommandRequest
    from server_stub.store.commands import CommandRecord
    from server_stub.store.nodes import NodeRecord

OPEN_COMMANDS_LIMIT: Final = 100
_ID: Final = {"type": "string", "pattern": "^[0-9a-f-]{36}$"}
_STATES: Final = frozenset(map(str, CommandState))
_GROUPS: Final = {"open": frozenset(map(str, OPEN)), "unfinished": frozenset({*OPEN, CommandState.ACCEPTED})}
_FILTERS: Final = (
    Parameter(
        "state",
        {"type": "string", "pattern": "^[a-z,-]{1,200}$"},
        "Only commands in one of these states, comma-separated; `open` is those that no nanny has confirmed, "
        "`unfinished` those without an outcome.",
    ),
    Parameter("kind", {"enum": [str(kind) for kind in CommandKind]}, "Only commands of this kind."),
    Parameter("rollout", _ID, "Only commands of this rollout."),
    Parameter("batch", _ID, "Only commands that this request for many nodes made."),
    Parameter("cursor", _ID, "Only older ones: `next` of the page before."),
    LIMIT,
)
_KEY: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": command_request.MAX_KEY},
    "The same request with the same key is carried out once.",
)
_ACTOR: Final = Parameter(
    "actor",
    {"type": "string", "minLength": 1, "maxLength": command_request.MAX_ACTOR},
    "Who does this; by default the client's address.",
)


class CommandRoutes(Routes):
    """What one can order, and read of orders."""

    ROUTES: ClassVar = (
        Route(
            "POST",
            "/v1/nodes/{node}/commands",
            Permission.COMMAND,
            "202 and the new command; `Idempotency-Key`",
            "post_command",
            headers=(_KEY,),
            statuses=(200, 202),
            problems=(
                "no-such-node",
                "incarnation-unknown",
                "too-many-open-commands",
                "idempotency-key-reused",
            ),
            body="CommandOrder",
            response="Command",
            query=(),
        ),
        Route(
            "POST",
            "/v1/commands",
            Permission.COMMAND,
            "202 and a new command for each node of `nodes` or of the label `selector`; all or none; "
            "`Idempotency-Key`, `dry_run`",
            "post_commands",
            headers=(_KEY,),
            statuses=(200, 202),
            problems=(
                "no-such-node",
                "nothing-selected",
                "incarnation-unknown",
                "too-many-open-commands",
                "idempotency-key-reused",
            ),
            body="CommandsOrder",
            response="CommandsOrdered",
            query=(),
        ),
        Route(
            "GET",
            "/v1/nodes/{node}/commands",
            Permission.OBSERVE,
            "its newest commands; `state`, `kind`, `rollout`, `batch`, `limit`, `cursor`",
            "get_node_commands",
            query=_FILTERS,
            problems=("no-such-node",),
            response="CommandList",
        ),
        Route(
            "GET",
            "/v1/commands",
            Permission.OBSERVE,
            "the newest commands of all nodes; `node`, `state`, `kind`, `rollout`, `batch`, `limit`, `cursor`",
            "get_commands",
            query=(
                Parameter(
                    "node",
                    {"type": "string", "minLength": 1, "maxLength": 256},
                    "Only commands of this node, by name or id; of a deleted one by id.",
                ),
                *_FILTERS,
            ),
            response="CommandList",
        ),
        Route(
            "GET",
            "/v1/commands/{command}",
            Permission.OBSERVE,
            "one command; `wait_s`: until it ended",
            "get_command",
            query=(WAIT_S,),
            problems=("no-such-command",),
            response="Command",
        ),
        Route(
            "DELETE",
            "/v1/commands/{command}",
            Permission.COMMAND,
            "the command, ended as superseded: only one that was never sent can be taken back",
            "delete_command",
            query=(_ACTOR,),
            problems=("no-such-command", "cannot-be-withdrawn"),
            response="Command",
        ),
    )

    # Order

    async def post_command(self, request: web.Request) -> web.Response:
        """Store a command and send it on its way."""
        services = self.services
        record = await self.find_node(request)
        key = command_request.parse_key(request.headers.get("Idempotency-Key"))
        wanted = command_request.parse(await json_body(request), record.id, actor_of(request))
        target = self._targets(wanted, [record])[0]
        self._check_room([record])
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

    async def post_commands(self, request: web.Request) -> web.Response:
        """Store a command for each of many nodes, all or none, and send them on their way."""
        services = self.services
        key = command_request.parse_key(request.headers.get("Idempotency-Key"))
        body = await json_body(request)
        wanted, selection, dry_run = command_request.parse_for_many(body, actor_of(request))
        async with services.database.reading() as session:
            records = await choose(session, selection)
        targets = self._targets(wanted, records)
        if dry_run:
            lines = [
                {
                    "id": record.id,
                    "name": record.name,
                    "state": record.state,
                    "target_incarnation": None if target is None else str(target),
                }
                for record, target in zip(records, targets, strict=True)
            ]
            return web.json_response({"dry_run": True, "count": len(lines), "nodes": lines})
        self._check_room(records)
        drafts: list[CommandRecord] = []
        for record, target in zip(records, targets, strict=True):
            draft = services.commands.draft(
                node_id=record.id,
                kind=wanted.kind,
                reason=wanted.reason,
                actor=wanted.actor,
                time_to_live_s=wanted.time_to_live_s,
                target=target,
                parameters=wanted.parameters,
                idempotency_key=None if drafts else key,
                fingerprint=wanted.fingerprint,
                batch_id=drafts[0].id if drafts else None,
            )
            drafts.append(draft)
        drafts[0] = replace(drafts[0], batch_id=drafts[0].id)
        commands, is_new = await services.commands.submit_all(drafts)
        batch_id = commands[0].batch_id
        answer = {
            "batch_id": batch_id,
            "count": len(commands),
            "commands": [services.views.command(command) for command in commands],
        }
        headers = {"Location": f"/v1/commands?batch={batch_id}"}
        return web.json_response(answer, status=202 if is_new else 200, headers=headers)

    def _targets(self, wanted: CommandRequest, records: Sequence[NodeRecord]) -> list[Incarnation | None]:
        """Give the life that each node's command is aimed at."""
        target = wanted.target
        if not isinstance(target, str):
            return [target] * len(records)
        lives = [known_incarnation(record, self.services.arrivals.of(record.id)) for record in records]
        silent = [record.name for record, life in zip(records, lives, strict=True) if life is None]
        if silent:
            detail = f"neither the nanny nor the worker of {some_of(silent)} has told its incarnation"
            raise Problem("incarnation-unknown", f"{detail}; name one, or null for any")
        return list(lives)

    def _check_room(self, records: Sequence[NodeRecord]) -> None:
        full = [
            record.name
            for record in records
            if self.services.commands.count_open(record.id) >= OPEN_COMMANDS_LIMIT
        ]
        if full:
            raise Problem(
                "too-many-open-commands",
                f"{some_of(full)}: {OPEN_COMMANDS_LIMIT} commands are not confirmed yet",
            )

    async def delete_command(self, request: web.Request) -> web.Response:
        """End a command that was never sent."""
        services, command_id = self.services, request.match_info["command"]
        detail = f"cancelled by {request.query.get('actor') or actor_of(request)}"
        command = await services.commands.withdraw(command_id, detail[: command_request.MAX_REASON])
        if command is None:
            raise Problem("no-such-command", f"there is no command {command_id[:64]!r}")
        state = CommandState(command.state)
        if state is not CommandState.SUPERSEDED or command.sent_wall_at is not None:
            assert not may_be_withdrawn(state)
            raise Problem("cannot-be-withdrawn", _why_not(state))
        return web.json_response(services.views.command(command))

    # Read

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
        name = request.query.get("node")
        if name is None:
            return await self._list_commands(request, None)
        async with self.services.database.reading() as session:
            record = await nodes.find(session, name)
        return await self._list_commands(request, name if record is None else record.id)

    async def _list_commands(self, request: web.Request, node_id: str | None) -> web.Response:
        limit, query = limit_of(request), request.query
        wanted = Wanted(
            node_id=node_id,
            states=_states_of(request),
            kind=query.get("kind"),
            rollout_id=query.get("rollout"),
            batch_id=query.get("batch"),
            before=query.get("cursor"),
        )
        async with self.services.database.reading() as session:
            found = await command_store.newest(session, wanted, limit + 1)
        page = found[:limit]
        return web.json_response(
            {
                "commands": [self.services.views.command(command) for command in page],
                "next": page[-1].id if len(found) > limit else None,
            }
        )


def actor_of(request: web.Request) -> str:
    """Give who asks, if he does not say."""
    return f"api@{request.remote or 'unknown'}"


def _states_of(request: web.Request) -> frozenset[str] | None:
    text = request.query.get("state")
    if text is None:
        return None
    wanted: set[str] = set()
    for word in text.split(","):
        if word not in _STATES and word not in _GROUPS:
            expected = ", ".join([*CommandState, *_GROUPS])
            raise Problem("invalid", f"state: expected some of {expected}", field="state")
        wanted |= _GROUPS.get(word, {word})
    return frozenset(wanted)


def _why_not(state: CommandState) -> str:
    if state in {CommandState.SENT, CommandState.ACCEPTED}:
        return (
            f"it is {state}, so the node may have carried it out already: wait for its outcome, "
            "or order what undoes it"
        )
    return f"it has ended already: {state}"
