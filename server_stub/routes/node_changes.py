"""Routes that change a node's row: its labels, and that it is on the list at all.

A node that is deleted and says hello again comes back as a new one: deleting is for machines that are gone.
RFC 7396 (JSON Merge Patch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from nanny.protocol.messages import Role
from server_stub import command_request
from server_stub.authorisation import Permission
from server_stub.changes import EVENTS, NODES
from server_stub.command_request import MAX_ACTOR, MAX_REASON, invalid
from server_stub.core.selector import is_key, is_value
from server_stub.problems import Problem
from server_stub.routes.commands import actor_of
from server_stub.routing import Parameter, Route, Routes, json_body
from server_stub.store import node_changes, nodes
from server_stub.store.node_changes import TooManyLabels

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

MOST_IN_A_PATCH: Final = 128
MERGE_PATCH: Final = "application/merge-patch+json"
_FLAGS: Final = {"true": True, "false": False}
_ACTOR: Final = Parameter(
    "actor",
    {"type": "string", "minLength": 1, "maxLength": MAX_ACTOR},
    "Who does this; by default the client's address.",
)


class NodeChangeRoutes(Routes):
    """What one can change of a node's row."""

    ROUTES: ClassVar = (
        Route(
            "PATCH",
            "/v1/nodes/{node}/labels",
            Permission.COMMAND,
            "the node's labels after a JSON merge patch of those that people set; null takes one away",
            "patch_labels",
            query=(_ACTOR,),
            problems=("no-such-node",),
            body="LabelsPatch",
            response="NodeLabels",
        ),
        Route(
            "DELETE",
            "/v1/nodes/{node}",
            Permission.COMMAND,
            "what was deleted; `force` deletes a connected node, too, which comes back as new when it dials again",
            "delete_node",
            query=(
                Parameter("force", {"enum": ["true", "false"]}, "Delete it although it is connected."),
                _ACTOR,
                Parameter(
                    "reason",
                    {"type": "string", "minLength": 1, "maxLength": MAX_REASON},
                    "For the event log.",
                ),
            ),
            problems=("no-such-node", "node-connected"),
            response="NodeDeleted",
        ),
    )

    async def patch_labels(self, request: web.Request) -> web.Response:
        """Set labels, and take away those whose value is null."""
        services = self.services
        record = await self.find_node(request)
        patch = _patch_of(await json_body(request, MERGE_PATCH))
        actor, wall_now = _text_of(request, "actor", MAX_ACTOR, actor_of(request)), services.clock.wall()

        async def change(session: AsyncSession) -> bool:
            return await node_changes.patch_labels(session, record.id, patch, actor, wall_now)

        try:
            is_changed = await services.database.write(change, "nodes")
        except TooManyLabels as error:
            raise invalid("labels", str(error)) from None
        if is_changed:
            services.log.info("labels changed", node=record.id, patch=patch, actor=actor)
            services.syncer.reread(record.id)
            services.changes.mark([record.id, NODES, EVENTS])
        async with services.database.reading() as session:
            now = (await nodes.read(session, [record.id]) or [record])[0]
        answer = {
            "id": now.id,
            "name": now.name,
            "labels": now.effective_labels,
            "labels_set": now.labels_set,
        }
        return web.json_response(answer)

    async def delete_node(self, request: web.Request) -> web.Response:
        """Take a node off the list."""
        services = self.services
        record = await self.find_node(request)
        force = request.query.get("force", "false")
        if force not in _FLAGS:
            raise invalid("force", "expected true or false")
        actor = _text_of(request, "actor", MAX_ACTOR, actor_of(request))
        reason = _text_of(request, "reason", MAX_REASON, "none given")
        arrivals = services.arrivals.of(record.id)
        by_role = {Role.LINK: arrivals.link, Role.WORKER: arrivals.worker}
        open_roles = [role for role, fact in by_role.items() if fact is not None and fact.is_open]
        if open_roles and not _FLAGS[force]:
            raise Problem(
                "node-connected",
                f"the {' and the '.join(open_roles)} of {record.name} are connected; a deleted node that is "
                "still running comes back as new: stop it first, or force",
            )
        for role in open_roles:
            services.links.hang_up(role, record.id, "node-deleted", f"deleted by {actor}: {reason}")
        await services.commands.withdraw_all(record.id, f"node deleted by {actor}")
        wall_now = services.clock.wall()
        await services.database.write(
            lambda session: node_changes.remove(session, record.id, actor, reason, wall_now), "nodes"
        )
        services.links.forget(record.id)
        services.syncer.forget(record.id)
        services.arrivals.forget(record.id)
        services.log.warning("node deleted", node=record.id, name=record.name, actor=actor, why=reason)
        services.changes.mark([record.id, NODES, EVENTS])
        services.changes.forget(record.id)
        return web.json_response({"deleted": True, "id": record.id, "name": record.name})


def _patch_of(body: Any) -> dict[str, str | None]:
    if not isinstance(body, dict):
        raise Problem("malformed", "expected a JSON object of labels")
    if len(body) > MOST_IN_A_PATCH:
        raise invalid("labels", f"{len(body)} labels, at most {MOST_IN_A_PATCH} can be")
    for key, value in body.items():
        if not is_key(key):
            expected = "a key is [prefix/]name of letters, digits and -_. with a letter or digit at both ends"
            raise invalid(key[:64], f"{expected}, the name of at most 63 characters")
        if value is not None and not (isinstance(value, str) and is_value(value)):
            raise invalid(key, "expected null, or text of at most 63 letters, digits and -_.")
    return body


def _text_of(request: web.Request, name: str, limit: int, default: str) -> str:
    return command_request.text_of(dict(request.query), name, limit, default)
