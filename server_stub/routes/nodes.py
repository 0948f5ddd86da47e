"""Routes for nodes: the list, one node, and waiting for either to change.

Answers are `views.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from server_stub.authorisation import Permission
from server_stub.changes import NODES
from server_stub.command_request import parse_selector
from server_stub.core.explanation import Step, explain
from server_stub.core.node_facts import Word
from server_stub.core.selector import MAX_TEXT
from server_stub.routing import REVISION, WAIT_S, Parameter, Route, Routes, integer_of, wait_s_of, words_of
from server_stub.store import nodes

if TYPE_CHECKING:
    from server_stub.arrivals import Arrivals
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
_SELECTOR: Final = Parameter(
    "selector",
    {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
    "Only nodes with these labels, as Kubernetes writes it: `rack=r1,gpu in (h200,b200),!old`.",
)


class NodeRoutes(Routes):
    """What one can ask of nodes."""

    ROUTES: ClassVar = (
        Route(
            "GET",
            "/v1/nodes",
            Permission.OBSERVE,
            "all nodes, or those that the label `selector` names; `wait_s`, `revision`",
            "get_nodes",
            response="NodeList",
            query=(WAIT_S, REVISION, _SELECTOR),
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
        Route(
            "GET",
            "/v1/nodes/{node}/explain",
            Permission.OBSERVE,
            "why it is in its state: evidence with times, what would change it, what happens next by itself",
            "get_explanation",
            query=(),
            response="Explanation",
            problems=("no-such-node",),
        ),
    )

    async def get_nodes(self, request: web.Request) -> web.Response:
        """List all nodes."""
        changes = self.services.changes
        wait_s, seen = wait_s_of(request), integer_of(request, "revision", None, 0)
        wanted = request.query.get("selector")
        selector = None if wanted is None else parse_selector(wanted)
        if wait_s and seen is not None:
            await changes.wait_beyond(NODES, seen, wait_s)
        revision = changes.revision(NODES)
        async with self.services.database.reading() as session:
            records = await nodes.read(session)
        if selector is not None:
            records = [record for record in records if selector.matches(record.effective_labels)]
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

    async def get_explanation(self, request: web.Request) -> web.Response:
        """Say why a node is in its state."""
        services = self.services
        record = await self.find_node(request)
        arrivals, now = services.arrivals.of(record.id), services.clock.monotonic()
        why = explain(
            services.syncer.facts(record),
            now,
            services.syncer.settings,
            services.syncer.next_probe_at(record.id),
            self._steps_of_others(record.id, arrivals, now),
        )
        return web.json_response(services.views.explanation(record, arrivals, why))

    def _steps_of_others(self, node_id: str, arrivals: Arrivals, now: float) -> list[Step]:
        """Give what the nanny, the brake and the repair policy do next by themselves."""
        steps = []
        report, nanny, link = arrivals.nanny_report, arrivals.nanny, arrivals.link
        if report is not None and nanny is not None and report.next_step and link is not None:
            in_s = report.next_step_in_s
            why = "as its nanny said" if link.is_open else "as its nanny said before its link broke"
            steps.append(Step(f"nanny: {report.next_step}", why, None if in_s is None else nanny.at + in_s))
        if self.services.brakes.is_withheld(node_id):
            steps.append(
                Step(
                    "demotion: none while the brake is on",
                    "so many nodes went out of reach at once that the server suspects itself; `brake lift` "
                    "says that it is right",
                )
            )
        repair = self.services.repairs.next_step(node_id)
        if repair is not None:
            at = None if repair.at is None else max(now, repair.at)
            steps.append(Step(f"repair: {repair.what}", repair.reason, at))
        return steps

    def _line(self, record: NodeRecord) -> dict[str, Any]:
        services = self.services
        verdict, arrivals = services.syncer.judge(record), services.arrivals.of(record.id)
        revision, is_withheld = services.changes.revision(record.id), services.brakes.is_withheld(record.id)
        return services.views.node(record, arrivals, verdict, revision, is_withheld=is_withheld)

    def _page(self, record: NodeRecord, revision: int) -> dict[str, Any]:
        services = self.services
        verdict, arrivals = services.syncer.judge(record), services.arrivals.of(record.id)
        is_withheld = services.brakes.is_withheld(record.id)
        return services.views.page(record, arrivals, verdict, revision, is_withheld=is_withheld)
