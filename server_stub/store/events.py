"""The event log in the database: read in order from a number on, filtered; its old end dropped; sinks' cursors.

Only the beginning of the log is ever dropped, and never its last event: what is missing before a reader's
number is seen from the oldest one kept. Writers of one process take turns until they have committed, so
numbers appear in their order. Knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from server_stub.store.tables import EventRow, NodeRow, SinkRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.sql.elements import ColumnElement


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event's row, free of any session."""

    seq: int
    wall_at: float
    type: str
    node_id: str | None
    detail: Mapping[str, Any]
    node_name: str | None = None
    """As the node is called now; None if it is gone."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which events a reader wants."""

    after: int = 0
    before: int | None = None
    type_prefixes: tuple[str, ...] = ()
    node_id: str | None = None
    since_wall_at: float | None = None
    until_wall_at: float | None = None
    newest_first: bool = False
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Kept:
    """The first and the last number of the log, 0 and 0 if it is empty."""

    oldest: int
    newest: int

    def misses(self, after: int) -> int:
        """Give how many numbers between `after` and the oldest event are gone; 0 asks for what there is."""
        return max(0, self.oldest - after - 1) if after else 0


async def read(session: AsyncSession, query: Query) -> list[LoggedEvent]:
    """Give the events that are asked for, in order of their numbers."""
    columns = (EventRow.seq, EventRow.wall_at, EventRow.type, EventRow.node_id, EventRow.detail, NodeRow.name)
    order = EventRow.seq.desc() if query.newest_first else EventRow.seq
    statement = (
        select(*columns)
        .outerjoin(NodeRow, NodeRow.id == EventRow.node_id)
        .where(EventRow.seq > query.after, *_conditions(query))
        .order_by(order)
        .limit(query.limit)
    )
    return [LoggedEvent(*row) for row in await session.execute(statement)]


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if query.before is not None:
        wanted.append(EventRow.seq < query.before)
    if query.type_prefixes:
        wanted.append(or_(*(EventRow.type.startswith(one, autoescape=True) for one in query.type_prefixes)))
    if query.node_id is not None:
        wanted.append(EventRow.node_id == query.node_id)
    if query.since_wall_at is not None:
        wanted.append(EventRow.wall_at >= query.since_wall_at)
    if query.until_wall_at is not None:
        wanted.append(EventRow.wall_at < query.until_wall_at)
    return wanted


async def kept(session: AsyncSession) -> Kept:
    """Give what there is of the log."""
    oldest, newest = (
        await session.execute(
            select(
                select(func.min(EventRow.seq)).scalar_subquery(),
                select(func.max(EventRow.seq)).scalar_subquery(),
            )
        )
    ).one()
    return Kept(oldest or 0, newest or 0)


async def first_to_keep(session: AsyncSession, dropped_before_wall_at: float, limit: int) -> int | None:
    """Give the number below which the log is to be dropped, as too old or above the limit; None: nothing is.

    Where the clock was set, the times of a log are not in order: an old one behind a new one stays.
    """
    there = await kept(session)
    young = select(EventRow.seq).where(EventRow.wall_at >= dropped_before_wall_at)
    first_young = await session.scalar(young.order_by(EventRow.seq).limit(1))
    keep_from = there.newest if first_young is None else first_young
    if there.newest - there.oldest >= limit:
        newest_first = select(EventRow.seq).order_by(EventRow.seq.desc())
        keep_from = max(keep_from, await session.scalar(newest_first.offset(limit - 1).limit(1)) or 0)
    return keep_from if keep_from > there.oldest else None


async def drop_before(session: AsyncSession, seq: int, at_most: int) -> int:
    """Drop the oldest events with lower numbers, so many at most; give how many."""
    oldest = select(EventRow.seq).where(EventRow.seq < seq).order_by(EventRow.seq).limit(at_most)
    dropped = await session.execute(delete(EventRow).where(EventRow.seq.in_(oldest.scalar_subquery())))
    return int(dropped.rowcount)  # type: ignore[attr-defined]


async def sink_cursor(session: AsyncSession, sink: str) -> int:
    """Give the number of the last event that a sink has taken; a new sink begins behind the newest one."""
    row = await session.get(SinkRow, sink)
    if row is None:
        row = SinkRow(name=sink, delivered_seq=(await kept(session)).newest)
        session.add(row)
    return row.delivered_seq


async def move_sink_cursor(session: AsyncSession, sink: str, seq: int) -> None:
    """Note that a sink has taken all events up to this one; a cursor never goes back."""
    await session.execute(
        update(SinkRow).where(SinkRow.name == sink, SinkRow.delivered_seq < seq).values(delivered_seq=seq)
    )
