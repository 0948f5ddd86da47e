"""Routes for nodes: the list, one node, and waiting for either to change.

Answers are `views.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.changes import NODES
from server_stub.core.node_facts import Word
from server_stub.routing import REVISION, WAIT_S, Parameter, Route, Routes, integer_of, wait_s_of, words_of
from server_stub.store import nodes

if TYPE_CHECKING:
    from server_stub.store.nodes import NodeRecord

_WORD: Final = "|".join(Word)
_UNTIL: Final = Parameter(
    "until",
    {"type": "string", "pattern": f"^({_WORD})(,({_WORD}))*$"},
    "With `wait_s`: until the node's state is one of these, comma-separated.",
)
_NOT_INCARNATION: Final = Parameter(
    "not_incarnation",
    {"type": "string", "minLength": 1, "maxLength": 160},
    "With `wait_s`: until another incarnation runs than this one.",
)


class NodeRoutes(Routes):
    """What one can ask of nodes."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/v1/nodes",
            Permission.OBSERVE,
            "all nodes; `wait_s`, `revision`",
            "get_nodes",
            response="NodeList",
            query=(WAIT_S, REVISION),
        ),
        Route(
            "GET",
            "/v1/nodes/{node}",
            Permission.OBSERVE,
            "one node by name or id; `wait_s` with `revision`, or with `until=READY` and `not_incarnation`",
            "get_node",
            response="NodePage",
            query=(WAIT_S, REVISION, _UNTIL, _NOT_INCARNATION),
        ),
    )

    async def get_nodes(self, request: web.Request) -> web.Response:
        """List all nodes."""
        changes = self.services.changes
        wait_s, seen = wait_s_of(request), integer_of(request, "revision", None, 0)
        if wait_s and seen is not None:
            await changes.wait_beyond(NODES, seen, wait_s)
        revision = changes.revision(NODES)
        async with self.services.database.reading() as session:
            records = await nodes.read(session)
        lines = [self._line(record) for record in records]
        return web.json_response({"nodes": lines, "revision": revision})

    async def get_node(self, request: web.Request) -> web.Response:
        """Show one node, when it is as asked for or the time is over."""
        changes, clock = self.services.changes, self.services.clock
        wait_s, seen = wait_s_of(request), integer_of(request, "revision", None, 0)
        wanted, unwanted_life = words_of(request), request.query.get("not_incarnation")
        ends_at = clock.monotonic() + wait_s
        while True:
            record = await self.find_node(request)
            revision = changes.revision(record.id)
            page = self._page(record, revision)
            is_as_asked = (
                (seen is None or revision != seen)
                and (not wanted or record.state in wanted)
                and (unwanted_life is None or page["incarnation"] != unwanted_life)
            )
            left_s = ends_at - clock.monotonic()
            if is_as_asked or left_s <= 0 or changes.is_closed:
                return web.json_response(page)
            await changes.wait_beyond(record.id, revision, left_s)

    def _line(self, record: NodeRecord) -> dict[str, Any]:
        services = self.services
        verdict, arrivals = services.syncer.judge(record), services.arrivals.of(record.id)
        return services.views.node(record, arrivals, verdict, services.changes.revision(record.id))

    def _page(self, record: NodeRecord, revision: int) -> dict[str, Any]:
        services = self.services
        verdict, arrivals = services.syncer.judge(record), services.arrivals.of(record.id)
        return services.views.page(record, arrivals, verdict, revision)
