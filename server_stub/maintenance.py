"""Putting nodes into maintenance and taking them out: the order checked, stored, and judged at once.

`{on, reason, until, actor}`; `until` is an instant by the server's clock and ends the maintenance by itself,
whatever has been restarted meanwhile. A node in maintenance is probed like any other; its word is MAINTENANCE
whatever it does, so nothing alarms and nothing is repaired. What is unknown in an order is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from server_stub.changes import EVENTS, NODES
from server_stub.clock import iso
from server_stub.command_request import MAX_ACTOR, MAX_REASON, invalid, text_of
from server_stub.problems import Problem
from server_stub.store import maintenance as store
from server_stub.store.maintenance import Maintenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.routing import Services

LONGEST_S: Final = 10 * 366 * 86400.0
MAX_INSTANT: Final = 40
FIELDS: Final = frozenset({"on", "reason", "until", "actor"})


@dataclass(frozen=True, slots=True)
class MaintenanceOrder:
    """What somebody wants of one or many nodes."""

    wanted: Maintenance | None
    """None: no maintenance."""
    actor: str


def parse(
    body: Any, default_actor: str, wall_now: float, more_fields: frozenset[str] = frozenset()
) -> MaintenanceOrder:
    """Give the order that a JSON body makes.

    Args:
        body: what came.
        default_actor: whose order it is if it doesn't say.
        wall_now: by the server's clock.
        more_fields: that the body may have beside these.

    Raises:
        Problem: `malformed`, or `invalid`, naming the field and what would be right.
    """
    if not isinstance(body, dict):
        raise Problem("malformed", "expected a JSON object")
    known = FIELDS | more_fields
    unknown = sorted(body.keys() - known)
    if unknown:
        raise invalid(str(unknown[0])[:64], f"no such field; there are {', '.join(sorted(known))}")
    is_on = body.get("on", True)
    if not isinstance(is_on, bool):
        raise invalid("on", "expected true or false")
    actor = text_of(body, "actor", MAX_ACTOR, default_actor)
    if not is_on:
        if body.get("until") is not None:
            raise invalid("until", "expected none: the end of a maintenance is now")
        text_of(body, "reason", MAX_REASON, "none given")
        return MaintenanceOrder(None, actor)
    reason = text_of(body, "reason", MAX_REASON, None)
    return MaintenanceOrder(Maintenance(reason, actor, _until(body.get("until"), wall_now)), actor)


def _until(told: Any, wall_now: float) -> float | None:
    if told is None:
        return None
    expected = f"expected null or an instant with its offset, such as {iso(wall_now + 3600.0)}"
    if not isinstance(told, str) or not told.isascii() or len(told) > MAX_INSTANT:
        raise invalid("until", expected)
    try:
        until = datetime.fromisoformat(told)
    except ValueError:
        raise invalid("until", expected) from None
    if until.tzinfo is None or until.utcoffset() is None:
        raise invalid("until", expected)
    try:
        until_wall_at = until.astimezone(UTC).timestamp()
    except (OverflowError, ValueError):
        raise invalid("until", expected) from None
    if not wall_now < until_wall_at <= wall_now + LONGEST_S:
        raise invalid("until", f"{expected}: after now, which is {iso(wall_now)}, and within ten years")
    return until_wall_at


async def carry_out(services: Services, node_ids: Sequence[str], order: MaintenanceOrder) -> set[str]:
    """Store the order for all of these nodes, or for none, and give those that it changes; then judge them."""
    wall_now = services.clock.wall()

    async def change(session: AsyncSession) -> set[str]:
        changed = set()
        for node_id in node_ids:
            if order.wanted is None:
                is_changed = await store.end(session, node_id, order.actor, wall_now)
            else:
                is_changed = await store.begin(session, node_id, order.wanted, wall_now)
            if is_changed:
                changed.add(node_id)
        return changed

    changed = await services.database.write(change, "maintenance")
    if changed:
        services.log.info(
            "maintenance changed",
            on=order.wanted is not None,
            nodes=len(changed),
            by=order.actor,
            reason=None if order.wanted is None else order.wanted.reason,
        )
        for node_id in changed:
            services.syncer.reread(node_id)
        await services.syncer.settle(changed)
        services.changes.mark([*changed, NODES, EVENTS])
    return changed
