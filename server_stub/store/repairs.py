"""Repairs in the database: what the budgets count, written before the order is given.

    intend (a row without its command) ─► the command is stored under the row's key ─► complete (its id, its event)

A server that dies in between leaves an intent. At the next start `unfinished` finds it: if its command is
there, it is completed, else nothing has happened and it is dropped. Knows no budgets and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select, update

from server_stub.core.command_lifecycle import OUTCOMES
from server_stub.store.nodes import MANY
from server_stub.store.tables import CommandRow, RepairRow

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class RepairRecord:
    """A repair's row at one moment, free of any session."""

    id: int
    node_id: str
    wall_at: float
    incarnation: str | None
    reason: str
    is_dry_run: bool
    command_id: str | None


FORGOTTEN_AFTER_S: Final = 86400.0
_COLUMNS: Final = [getattr(RepairRow, name) for name in RepairRecord.__slots__]


async def since(session: AsyncSession, wall_at: float) -> list[RepairRecord]:
    """Give the repairs made, or in a dry run only said, after an instant, oldest first."""
    query = select(*_COLUMNS).where(RepairRow.wall_at > wall_at).order_by(RepairRow.wall_at, RepairRow.id)
    return [RepairRecord(*row) for row in await session.execute(query)]


async def unfinished(session: AsyncSession) -> list[RepairRecord]:
    """Give the intents of which it is not known whether their command was stored."""
    query = select(*_COLUMNS).where(RepairRow.command_id.is_(None), RepairRow.is_dry_run.is_(False))
    return [RepairRecord(*row) for row in await session.execute(query)]


async def episode(session: AsyncSession, node_id: str, incarnation: str) -> int:
    """Give how many restarts were ordered of this incarnation before."""
    query = (
        select(func.count())
        .select_from(RepairRow)
        .where(
            RepairRow.node_id == node_id,
            RepairRow.incarnation == incarnation,
            RepairRow.command_id.is_not(None),
        )
    )
    return (await session.scalar(query)) or 0


async def add(
    session: AsyncSession, *, node_id: str, wall_at: float, incarnation: str, reason: str, is_dry_run: bool
) -> int:
    """Store a repair that is about to be ordered, or that would be; gives its number."""
    row = RepairRow(
        node_id=node_id, wall_at=wall_at, incarnation=incarnation, reason=reason, is_dry_run=is_dry_run
    )
    session.add(row)
    await session.flush()
    return row.id


async def complete(session: AsyncSession, repair_id: int, command_id: str) -> bool:
    """Note the command of an intent; False if it had one already."""
    statement = (
        update(RepairRow)
        .where(RepairRow.id == repair_id, RepairRow.command_id.is_(None))
        .values(command_id=command_id)
        .returning(RepairRow.id)
    )
    return (await session.scalar(statement)) is not None


async def drop(session: AsyncSession, repair_id: int) -> None:
    """Forget an intent of which nothing came."""
    await session.execute(delete(RepairRow).where(RepairRow.id == repair_id))


async def bring_back_from_the_future(session: AsyncSession, wall_now: float) -> None:
    """Date repairs of a time that is still to come as made now, so that they age: a wall clock was set back."""
    await session.execute(update(RepairRow).where(RepairRow.wall_at > wall_now).values(wall_at=wall_now))


async def prune(session: AsyncSession, before_wall_at: float) -> None:
    """Drop what is older than anyone asks for."""
    await session.execute(delete(RepairRow).where(RepairRow.wall_at < before_wall_at))


async def command_of(session: AsyncSession, key: str) -> str | None:
    """Give the id of the command that was stored under an idempotency key."""
    return await session.scalar(select(CommandRow.id).where(CommandRow.idempotency_key == key))


async def with_open_command(session: AsyncSession, node_ids: Collection[str], wall_now: float) -> set[str]:
    """Give those of the nodes for which some command has no outcome yet, and could still have one.

    A nanny that lost its journal never ends what it had accepted: a day after its time such a command is nobody's.
    """
    query = select(CommandRow.node_id).where(
        CommandRow.state.not_in([str(outcome) for outcome in OUTCOMES]),
        CommandRow.expires_wall_at > wall_now - FORGOTTEN_AFTER_S,
    )
    if len(node_ids) <= MANY:
        query = query.where(CommandRow.node_id.in_(node_ids))
    return set(await session.scalars(query.distinct())) & set(node_ids)
