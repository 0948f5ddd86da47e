"""Commands in the database: each change of state is one transaction, with its event.

A command is stored before anyone is told of it, and `sent` before its first byte leaves. Legal changes are
those of `core.command_lifecycle`. Knows no connections and no monotonic time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from server_stub import events
from server_stub.core.command_lifecycle import CommandState, absorbs, advance, is_finished
from server_stub.store.tables import CommandRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncSession


class KeyReused(Exception):  # noqa: N818 (what it is, not what it does)
    """The idempotency key came before, with another request."""


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command's row at one moment, free of any session."""

    id: str
    node_id: str
    kind: str
    reason: str
    actor: str
    target_incarnation: str | None
    parameters: Mapping[str, Any]
    time_to_live_s: float
    idempotency_key: str | None
    fingerprint: str
    state: str
    detail: str
    incarnation_after: str | None
    created_wall_at: float
    expires_wall_at: float
    sent_wall_at: float | None
    accepted_wall_at: float | None
    finished_wall_at: float | None

    @property
    def is_finished(self) -> bool:
        """Whether it has its outcome."""
        return is_finished(CommandState(self.state))


_COLUMNS: Final = [getattr(CommandRow, name) for name in CommandRecord.__slots__]
_OPEN: Final = (CommandState.QUEUED, CommandState.SENT)


class Moved(Enum):
    """What came of news about a command."""

    YES = auto()
    OLD_NEWS = auto()
    """Known already; nothing was written."""
    CONTRADICTION = auto()
    """It ended otherwise before, and that end stands; nothing was written."""
    NO_SUCH_COMMAND = auto()


async def submit(session: AsyncSession, new: CommandRecord) -> tuple[CommandRecord, bool]:
    """Store a new command, or give the one that the same request made before; tells whether it is new.

    Raises:
        KeyReused: the key was used for another request.
    """
    if new.idempotency_key is not None:
        query = select(*_COLUMNS).where(CommandRow.idempotency_key == new.idempotency_key)
        earlier = (await session.execute(query)).one_or_none()
        if earlier is not None:
            record = CommandRecord(*earlier)
            if record.fingerprint != new.fingerprint:
                raise KeyReused(f"this key made command {record.id}, from another request")
            return record, False
    session.add(CommandRow(**{name: getattr(new, name) for name in CommandRecord.__slots__}))
    events.append(
        session,
        new.created_wall_at,
        f"command.{new.state}",
        new.node_id,
        command=new.id,
        kind=new.kind,
        actor=new.actor,
        reason=new.reason,
    )
    return new, True


async def find(session: AsyncSession, command_id: str) -> CommandRecord | None:
    """Give the command of this id."""
    row = (await session.execute(select(*_COLUMNS).where(CommandRow.id == command_id))).one_or_none()
    return None if row is None else CommandRecord(*row)


async def newest(session: AsyncSession, node_id: str | None, limit: int) -> list[CommandRecord]:
    """Give the last commands, newest first, of one node or of all."""
    query = select(*_COLUMNS).order_by(CommandRow.id.desc()).limit(limit)
    if node_id is not None:
        query = query.where(CommandRow.node_id == node_id)
    return [CommandRecord(*row) for row in await session.execute(query)]


async def undelivered(session: AsyncSession, node_id: str | None = None) -> list[CommandRecord]:
    """Give the commands, oldest first, that no nanny has confirmed: queued, or sent and not accepted."""
    query = select(*_COLUMNS).where(CommandRow.state.in_(_OPEN)).order_by(CommandRow.id)
    if node_id is not None:
        query = query.where(CommandRow.node_id == node_id)
    return [CommandRecord(*row) for row in await session.execute(query)]


async def move(
    session: AsyncSession,
    command_id: str,
    node_id: str,
    after: CommandState,
    wall_at: float,
    *,
    detail: str = "",
    incarnation: str | None = None,
) -> Moved:
    """Bring a command to a new state.

    Raises:
        IllegalTransition: the table of legal changes doesn't have this one.
    """
    row = await session.get(CommandRow, command_id)
    if row is None or row.node_id != node_id:
        return Moved.NO_SUCH_COMMAND
    before = CommandState(row.state)
    if absorbs(before, after):
        return Moved.OLD_NEWS
    if is_finished(before):
        return Moved.CONTRADICTION
    row.state = advance(before, after)
    match after:
        case CommandState.SENT:
            row.sent_wall_at = wall_at
        case CommandState.ACCEPTED:
            row.accepted_wall_at = wall_at
        case _:
            row.finished_wall_at = wall_at
            row.detail = detail
            row.incarnation_after = incarnation
    events.append(
        session, wall_at, f"command.{after}", node_id, command=command_id, kind=row.kind, detail=detail
    )
    return Moved.YES
