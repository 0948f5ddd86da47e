"""What people change of a node's row beside its maintenance: its labels, and that it is there at all.

Every function takes the caller's session and does no more than its transaction; each change is an event.
Labels that people set are kept apart from those that a worker registers, so neither overwrites the other.
Knows no connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete

from server_stub import events
from server_stub.store.tables import NodeRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

MOST_LABELS: Final = 64


class TooManyLabels(Exception):  # noqa: N818 (what it is, not what it does)
    """The node would have more than MOST_LABELS that people set."""


async def patch_labels(
    session: AsyncSession, node_id: str, patch: Mapping[str, str | None], actor: str, wall_at: float
) -> bool:
    """Set labels, and take away those whose value is None (RFC 7396); tells whether anything changed.

    Raises:
        NoResultFound: there is no such node.
        TooManyLabels: nothing was changed.
    """
    row = await session.get_one(NodeRow, node_id)
    before = row.labels_set
    after = {key: value for key, value in {**before, **patch}.items() if value is not None}
    if after == before:
        return False
    if len(after) > MOST_LABELS:
        raise TooManyLabels(f"{len(after)} labels, at most {MOST_LABELS} can be set")
    row.labels_set = after
    events.append(session, wall_at, "node.labels", node_id, labels=after, by=actor)
    return True


async def remove(session: AsyncSession, node_id: str, actor: str, reason: str, wall_at: float) -> bool:
    """Delete a node's row and its sightings; its commands and events stay. Tells whether it was there."""
    gone = await session.execute(delete(NodeRow).where(NodeRow.id == node_id).returning(NodeRow.name))
    name = gone.scalar_one_or_none()
    if name is None:
        return False
    events.append(session, wall_at, "node.deleted", node_id, name=name, by=actor, reason=reason)
    return True
