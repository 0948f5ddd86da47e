"""Routes for rollouts: begin, look, wait, list, abort.

What a rollout may be is `rollout_request.py`'s, what becomes of it `Rollouts`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from server_stub import command_request, rollout_request
from server_stub.authorisation import Permission
from server_stub.clock import iso
from server_stub.core.rollout import IN_FLIGHT, RolloutState, StepState, concurrency_of
from server_stub.problems import Problem
from server_stub.routes.commands import actor_of
from server_stub.routing import (
    LIMIT,
    REVISION,
    WAIT_S,
    Parameter,
    Route,
    Routes,
    integer_of,
    json_body,
    limit_of,
    wait_s_of,
)
from server_stub.selection import choose, some_of
from server_stub.store import rollouts as store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from server_stub.store.nodes import NodeRecord
    from server_stub.store.rollouts import RolloutRecord, StepRecord

_ID: Final = {"type": "string", "pattern": "^[0-9a-f-]{36}$"}
_STILL: Final = frozenset({StepState.WAITING, *IN_FLIGHT})
_ABORT_FIELDS: Final = frozenset({"reason", "actor"})


class RolloutRoutes(Routes):
    """What one can have rolled out."""

    ROUTES: ClassVar = (
        Route(
            "POST",
            "/v1/rollouts",
            Permission.COMMAND,
            "202 and a new rollout: a restart of `nodes` or of the label `selector`, `concurrency` at a time, on "
            "only while nodes come back READY; `Idempotency-Key`, `dry_run`",
            "post_rollout",
            headers=(
                Parameter(
                    "Idempotency-Key",
                    {"type": "string", "minLength": 1, "maxLength": command_request.MAX_KEY},
                    "The same request with the same key is carried out once.",
                ),
            ),
            statuses=(200, 202),
            problems=("no-such-node", "nothing-selected", "rollout-under-way", "idempotency-key-reused"),
            body="RolloutOrder",
            response="RolloutOrdered",
            query=(),
        ),
        Route(
            "GET",
            "/v1/rollouts",
            Permission.OBSERVE,
            "the newest rollouts; `state`, `limit`, `cursor`",
            "get_rollouts",
            query=(
                Parameter(
                    "state", {"enum": [str(state) for state in RolloutState]}, "Only those in this state."
                ),
                Parameter("cursor", _ID, "Only older ones: `next` of the page before."),
                LIMIT,
            ),
            response="RolloutList",
        ),
        Route(
            "GET",
            "/v1/rollouts/{rollout}",
            Permission.OBSERVE,
            "one rollout with its steps; `wait_s`: until it ended, or with `revision` until it went on",
            "get_rollout",
            query=(WAIT_S, REVISION),
            problems=("no-such-rollout",),
            response="RolloutPage",
        ),
        Route(
            "POST",
            "/v1/rollouts/{rollout}/abort",
            Permission.COMMAND,
            "the rollout, which orders nothing any more",
            "post_abort",
            problems=("no-such-rollout",),
            body="Abort",
            response="RolloutPage",
            query=(),
        ),
    )

    async def post_rollout(self, request: web.Request) -> web.Response:
        """Store a rollout and start it."""
        services = self.services
        key = command_request.parse_key(request.headers.get("Idempotency-Key"))
        wanted = rollout_request.parse(await json_body(request), actor_of(request))
        async with services.database.reading() as session:
            records = await choose(session, wanted.selection)
            earlier = None if key is None else await store.of_key(session, key)
        concurrency = concurrency_of(wanted.concurrency, len(records))
        if wanted.dry_run:
            lines = [{"id": one.id, "name": one.name, "state": one.state} for one in records]
            answer = {"dry_run": True, "concurrency": concurrency, "count": len(lines), "nodes": lines}
            return web.json_response(answer)
        async with services.rollouts.beginning:
            if earlier is None:
                self._check_free(records)
            record, is_new = await services.rollouts.begin(wanted, records, concurrency, key)
        page = await self._page(record.id)
        headers = {"Location": f"/v1/rollouts/{record.id}"}
        return web.json_response(page, status=202 if is_new else 200, headers=headers)

    def _check_free(self, records: Sequence[NodeRecord]) -> None:
        under_way = self.services.rollouts.nodes_under_way()
        taken = [record.name for record in records if record.id in under_way]
        if taken:
            others = sorted({under_way[record.id] for record in records if record.id in under_way})
            raise Problem(
                "rollout-under-way",
                f"{some_of(taken)}: part of {', '.join(others)}; wait for it, or abort it",
                rollouts=others,
            )

    async def get_rollouts(self, request: web.Request) -> web.Response:
        """List the newest rollouts."""
        limit, state = limit_of(request), request.query.get("state")
        if state is not None and state not in list(RolloutState):
            raise Problem("invalid", f"state: expected one of {', '.join(RolloutState)}", field="state")
        states = None if state is None else {state}
        async with self.services.database.reading() as session:
            found = await store.newest(session, states, request.query.get("cursor"), limit + 1)
            page = found[:limit]
            counts = await store.count_steps(session, [record.id for record in page])
        return web.json_response(
            {
                "rollouts": [_line(record, counts[record.id]) for record in page],
                "next": page[-1].id if len(found) > limit else None,
            }
        )

    async def get_rollout(self, request: web.Request) -> web.Response:
        """Show one rollout, when it has ended, has gone on, or the time is over."""
        services, rollout_id = self.services, request.match_info["rollout"]
        seen = integer_of(request, "revision", None, 0)
        ends_at = services.clock.monotonic() + wait_s_of(request)
        while True:
            revision = services.changes.revision(rollout_id)
            page = await self._page(rollout_id)
            left_s = ends_at - services.clock.monotonic()
            has_gone_on = seen is not None and revision != seen
            if page["is_finished"] or has_gone_on or left_s <= 0 or services.changes.is_closed:
                return web.json_response({**page, "revision": revision})
            await services.changes.wait_beyond(rollout_id, revision, left_s)

    async def post_abort(self, request: web.Request) -> web.Response:
        """Have a rollout order nothing more."""
        body = await json_body(request)
        if not isinstance(body, dict):
            raise Problem("malformed", "expected a JSON object")
        unknown = sorted(body.keys() - _ABORT_FIELDS)
        if unknown:
            raise command_request.invalid(str(unknown[0])[:64], "no such field; there are actor, reason")
        actor = command_request.text_of(body, "actor", command_request.MAX_ACTOR, actor_of(request))
        reason = command_request.text_of(body, "reason", command_request.MAX_REASON, None)
        rollout_id = request.match_info["rollout"]
        record = await self.services.rollouts.abort(rollout_id, f"aborted by {actor}: {reason}")
        if record is None:
            raise _no_such_rollout(rollout_id)
        return web.json_response(await self._page(rollout_id))

    async def _page(self, rollout_id: str) -> dict[str, Any]:
        async with self.services.database.reading() as session:
            record = await store.find(session, rollout_id)
            steps = await store.steps(session, rollout_id) if record is not None else []
        if record is None:
            raise _no_such_rollout(rollout_id)
        counts = dict.fromkeys(map(str, StepState), 0)
        for step in steps:
            counts[step.state] += 1
        return {**_line(record, counts), "steps": [_step(step) for step in steps]}


def _no_such_rollout(rollout_id: str) -> Problem:
    return Problem("no-such-rollout", f"there is no rollout {rollout_id[:64]!r}")


def _line(record: RolloutRecord, counts: Mapping[str, int]) -> dict[str, Any]:
    nodes = sum(counts.values())
    ended = sum(number for state, number in counts.items() if state not in _STILL)
    return {
        "id": record.id,
        "kind": record.kind,
        "state": record.state,
        "is_finished": record.is_finished,
        "detail": record.detail,
        "reason": record.reason,
        "actor": record.actor,
        "selector": record.selector or None,
        "parameters": record.parameters,
        "time_to_live_s": record.time_to_live_s,
        "concurrency": record.concurrency,
        "failures_allowed": record.failures_allowed,
        "health_timeout_s": record.health_timeout_s,
        "created": iso(record.created_wall_at),
        "finished": _optional_iso(record.finished_wall_at),
        "nodes": nodes,
        "ended": ended,
        "by_state": dict(counts),
    }


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "position": step.position,
        "node_id": step.node_id,
        "node_name": step.node_name,
        "state": step.state,
        "detail": step.detail,
        "command_id": step.command_id,
        "began": _optional_iso(step.began_wall_at),
        "finished": _optional_iso(step.finished_wall_at),
    }


def _optional_iso(wall_at: float | None) -> str | None:
    return None if wall_at is None else iso(wall_at)
