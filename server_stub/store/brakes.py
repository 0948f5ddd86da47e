"""The brakes' positions in the database, so that a server's restart forgets none.

One row for each brake that ever moved. Wall-clock times, because they outlive the process. Knows no rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from server_stub.store.tables import BrakeRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class BrakeRecord:
    """A brake's row at one moment, free of any session."""

    name: str
    is_on: bool
    since_wall_at: float
    reason: str
    lifted_by: str | None
    lifted_until_wall_at: float | None


_COLUMNS: Final = [getattr(BrakeRow, name) for name in BrakeRecord.__slots__]


async def read(session: AsyncSession) -> list[BrakeRecord]:
    """Give all brakes that ever moved, by name."""
    found = await session.execute(select(*_COLUMNS).order_by(BrakeRow.name))
    return [BrakeRecord(*row) for row in found]


async def put(session: AsyncSession, record: BrakeRecord) -> None:
    """Store a brake's position in place of the one before."""
    await session.merge(BrakeRow(**{name: getattr(record, name) for name in BrakeRecord.__slots__}))
