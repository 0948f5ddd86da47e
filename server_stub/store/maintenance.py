"""Maintenance in the database: who put a node into it, why, and until when; each change an event.

Every function takes the caller's session and does no more than its transaction. The lifecycle's column says
*that* a node is in maintenance, the `maintenance_` columns say the rest. Neither a registration nor a hello
touches them, so maintenance outlives every restart. What a node's state is meanwhile, this file doesn't know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update

from server_stub import events
from server_stub.clock import iso
from server_stub.core.node_facts import Lifecycle
from server_stub.store.tables import NodeRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class Maintenance:
    """An order to leave a node alone."""

    reason: str
    by: str
    until_wall_at: float | None = None
    """None: until people end it."""


async def begin(session: AsyncSession, node_id: str, wanted: Maintenance, wall_at: float) -> bool:
    """Put a node into maintenance, or change why and until when; tells whether anything changed.

    Raises:
        NoResultFound: there is no such node.
    """
    row = await session.get_one(NodeRow, node_id)
    was_in = row.lifecycle == Lifecycle.MAINTENANCE
    told = (row.maintenance_reason, row.maintenance_by, row.maintenance_until_wall_at)
    if was_in and told == (wanted.reason, wanted.by, wanted.until_wall_at):
        return False
    if not was_in or row.maintenance_since_wall_at is None:
        row.maintenance_since_wall_at = wall_at
    row.lifecycle = Lifecycle.MAINTENANCE.value
    row.maintenance_reason, row.maintenance_by = wanted.reason, wanted.by
    row.maintenance_until_wall_at = wanted.until_wall_at
    events.append(
        session,
        wall_at,
        "node.maintenance",
        node_id,
        on=True,
        reason=wanted.reason,
        by=wanted.by,
        until=None if wanted.until_wall_at is None else iso(wanted.until_wall_at),
    )
    return True


async def end(session: AsyncSession, node_id: str, by: str, wall_at: float) -> bool:
    """End a node's maintenance; False if it was in none.

    Raises:
        NoResultFound: there is no such node.
    """
    row = await session.get_one(NodeRow, node_id)
    if row.lifecycle != Lifecycle.MAINTENANCE:
        return False
    reason = row.maintenance_reason
    row.lifecycle = Lifecycle.ACTIVE.value
    row.maintenance_reason = row.maintenance_by = None
    row.maintenance_since_wall_at = row.maintenance_until_wall_at = None
    events.append(session, wall_at, "node.maintenance", node_id, on=False, reason=reason, by=by, until=None)
    return True


async def note_ended(session: AsyncSession, reason_by_node: dict[str, str], wall_at: float) -> None:
    """Clear what was said of maintenance whose time was over; in the transaction that changed the lifecycle."""
    await session.execute(
        update(NodeRow)
        .where(NodeRow.id.in_(reason_by_node))
        .values(
            maintenance_reason=None,
            maintenance_by=None,
            maintenance_since_wall_at=None,
            maintenance_until_wall_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    await events.append_many(session, _endings(reason_by_node.items(), wall_at))


def _endings(ended: Iterable[tuple[str, str]], wall_at: float) -> list[dict[str, object]]:
    return [
        {
            "wall_at": wall_at,
            "type": "node.maintenance",
            "node_id": node_id,
            "detail": {"on": False, "reason": reason, "by": "its time was over", "until": None},
        }
        for node_id, reason in ended
    ]
