"""The event log: what happened, appended in the transaction of the change that it tells of.

A reader keeps the `seq` of the last event that it saw and asks for those after it. Retention, filters and
sinks come with the server's depth; every change already passes through `append`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select

from server_stub.store.tables import EventRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession


def append(session: AsyncSession, wall_at: float, type_: str, node_id: str | None, **detail: Any) -> None:
    """Add an event to the session's transaction."""
    session.add(EventRow(wall_at=wall_at, type=type_, node_id=node_id, detail=detail))


async def append_many(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Add events, as the columns of their rows, to the session's transaction by one statement."""
    if rows:
        await session.execute(insert(EventRow), rows)


async def after(session: AsyncSession, seq: int, limit: int) -> Sequence[EventRow]:
    """Give at most `limit` events later than `seq`, in order."""
    found = await session.scalars(
        select(EventRow).where(EventRow.seq > seq).order_by(EventRow.seq).limit(limit)
    )
    return found.all()


async def newest_seq(session: AsyncSession) -> int:
    """Give the last event's number, 0 if there is none."""
    return (await session.scalar(select(func.max(EventRow.seq)))) or 0
