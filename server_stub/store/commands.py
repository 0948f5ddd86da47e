"""Commands in the database: each change of state is written in one transaction with its event.

A command is stored before anyone is told of it, and `sent` before its first byte leaves. Legal changes are
those of `core.command_lifecycle`. What may come for many nodes at once is one statement for all of them.
Knows no connections and no monotonic time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, insert, select, update

from server_stub import events
from server_stub.core.command_lifecycle import CommandState, absorbs, advance, is_finished, may_be_withdrawn
from server_stub.store.tables import CommandRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

CHUNK: Final = 500
"""Ids in one statement: below every database's limit of parameters."""


class KeyReused(Exception):  # noqa: N818 (what it is, not what it does)
    """The idempotency key came before, with another request."""


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command's row at one moment, free of any session."""

    id: str
    node_id: str
    rollout_id: str | None
    batch_id: str | None
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which commands a list is of; None is all."""

    node_id: str | None = None
    states: frozenset[str] | None = None
    kind: str | None = None
    rollout_id: str | None = None
    batch_id: str | None = None
    before: str | None = None
    """Only those older than this id."""


_COLUMNS: Final = [getattr(CommandRow, name) for name in CommandRecord.__slots__]
OPEN: Final = (CommandState.QUEUED, CommandState.SENT)
"""States in which no nanny has confirmed a command."""


class Moved(Enum):
    """What came of news about a command."""

    YES = auto()
    OLD_NEWS = auto()
    """Known already; nothing was written."""
    CONTRADICTION = auto()
    """It ended otherwise before, and that end stands; nothing was written."""
    NO_SUCH_COMMAND = auto()


async def submit(session: AsyncSession, new: Sequence[CommandRecord]) -> tuple[list[CommandRecord], bool]:
    """Store new commands, or give those that the same request made before; tells whether they are new.

    Args:
        session: of a writing transaction: all are stored with it, or none.
        new: at least one. Of several the first alone carries the idempotency key, and all its id as `batch_id`.

    Raises:
        KeyReused: the key was used for another request.
    """
    key = new[0].idempotency_key
    if key is not None:
        query = select(*_COLUMNS).where(CommandRow.idempotency_key == key)
        earlier = (await session.execute(query)).one_or_none()
        if earlier is not None:
            first = CommandRecord(*earlier)
            if first.fingerprint != new[0].fingerprint:
                raise KeyReused(f"this key made command {first.id}, from another request")
            if first.batch_id is None:
                return [first], False
            query = select(*_COLUMNS).where(CommandRow.batch_id == first.batch_id).order_by(CommandRow.id)
            return [CommandRecord(*row) for row in await session.execute(query)], False
    for start in range(0, len(new), CHUNK):
        await _insert(session, new[start : start + CHUNK])
    return list(new), True


async def _insert(session: AsyncSession, new: Sequence[CommandRecord]) -> None:
    names = CommandRecord.__slots__
    rows = [{"version_id": 1, **{name: getattr(record, name) for name in names}} for record in new]
    await session.execute(insert(CommandRow), rows)
    told = [
        {
            "wall_at": record.created_wall_at,
            "type": f"command.{record.state}",
            "node_id": record.node_id,
            "detail": {
                "command": record.id,
                "kind": record.kind,
                "actor": record.actor,
                "reason": record.reason,
            },
        }
        for record in new
    ]
    await events.append_many(session, told)


async def find(session: AsyncSession, command_id: str) -> CommandRecord | None:
    """Give the command of this id."""
    row = (await session.execute(select(*_COLUMNS).where(CommandRow.id == command_id))).one_or_none()
    return None if row is None else CommandRecord(*row)


async def find_many(session: AsyncSession, ids: Collection[str]) -> dict[str, CommandRecord]:
    """Give those of these commands that exist, by id."""
    found: dict[str, CommandRecord] = {}
    for chunk in _chunks(ids):
        rows = await session.execute(select(*_COLUMNS).where(CommandRow.id.in_(chunk)))
        found |= {row.id: CommandRecord(*row) for row in rows}
    return found


async def newest(session: AsyncSession, wanted: Wanted, limit: int) -> list[CommandRecord]:
    """Give the last commands that are wanted, newest first."""
    query = select(*_COLUMNS).order_by(CommandRow.id.desc()).limit(limit)
    if wanted.node_id is not None:
        query = query.where(CommandRow.node_id == wanted.node_id)
    if wanted.states is not None:
        query = query.where(CommandRow.state.in_(wanted.states))
    if wanted.kind is not None:
        query = query.where(CommandRow.kind == wanted.kind)
    if wanted.rollout_id is not None:
        query = query.where(CommandRow.rollout_id == wanted.rollout_id)
    if wanted.batch_id is not None:
        query = query.where(CommandRow.batch_id == wanted.batch_id)
    if wanted.before is not None:
        query = query.where(CommandRow.id < wanted.before)
    return [CommandRecord(*row) for row in await session.execute(query)]


async def undelivered(session: AsyncSession, node_ids: Collection[str] | None = None) -> list[CommandRecord]:
    """Give the commands, oldest first, that no nanny has confirmed: queued, or sent and not accepted."""
    query = select(*_COLUMNS).where(CommandRow.state.in_(OPEN)).order_by(CommandRow.id)
    if node_ids is None:
        return [CommandRecord(*row) for row in await session.execute(query)]
    found = [
        CommandRecord(*row)
        for chunk in _chunks(node_ids)
        for row in await session.execute(query.where(CommandRow.node_id.in_(chunk)))
    ]
    return sorted(found, key=lambda record: record.id)


async def move_queued(
    session: AsyncSession, ids: Collection[str], after: CommandState, wall_at: float, detail: str = ""
) -> set[str]:
    """Bring those of the commands that are still queued to `after`, and give their ids.

    Raises:
        IllegalTransition: that is nowhere to go from `queued`.
    """
    advance(CommandState.QUEUED, after)
    when = {"sent_wall_at": wall_at} if after is CommandState.SENT else {"finished_wall_at": wall_at}
    moved: set[str] = set()
    told = []
    for chunk in _chunks(ids):
        statement = (
            update(CommandRow)
            .where(and_(CommandRow.id.in_(chunk), CommandRow.state == CommandState.QUEUED))
            .values(state=str(after), detail=detail, version_id=CommandRow.version_id + 1, **when)
            .returning(CommandRow.id, CommandRow.node_id, CommandRow.kind)
            .execution_options(synchronize_session=False)
        )
        for row in sorted(await session.execute(statement)):
            moved.add(row.id)
            told.append(_event(wall_at, after, row.node_id, row.id, row.kind, detail))
    await events.append_many(session, told)
    return moved


async def withdraw(
    session: AsyncSession, command_id: str, wall_at: float, detail: str
) -> tuple[CommandRecord | None, bool]:
    """End a command that was never sent as superseded; gives it as it is then, and whether that changed it."""
    record = await find(session, command_id)
    if record is None or not may_be_withdrawn(CommandState(record.state)):
        return record, False
    moved = await move_queued(session, [command_id], CommandState.SUPERSEDED, wall_at, detail)
    return await find(session, command_id), bool(moved)


@dataclass(frozen=True, slots=True)
class News:
    """What a node has told of a command."""

    command_id: str
    node_id: str
    after: CommandState
    wall_at: float
    detail: str = ""
    incarnation: str | None = None


async def take_news(session: AsyncSession, news: Sequence[News]) -> list[Moved]:
    """Bring commands to the states that their nodes tell of, in this order; gives what came of each.

    A command that is still `queued` here was sent all the same, or its node would know nothing of it: as after
    a database that was restored from before the sending.
    """
    rows = await _for_update(session, {one.command_id for one in news})
    changed: dict[str, dict[str, Any]] = {}
    told = []
    results = []
    for one in news:
        row = rows.get(one.command_id)
        if row is None or row["node_id"] != one.node_id:
            results.append(Moved.NO_SUCH_COMMAND)
            continue
        before = CommandState(row["state"])
        if absorbs(before, one.after):
            results.append(Moved.OLD_NEWS)
            continue
        if is_finished(before):
            results.append(Moved.CONTRADICTION)
            continue
        if before is CommandState.QUEUED:
            before = advance(before, CommandState.SENT)
            row["sent_wall_at"] = one.wall_at
            told.append(_event(one.wall_at, before, one.node_id, one.command_id, row["kind"], ""))
        row["state"] = str(advance(before, one.after))
        if one.after is CommandState.ACCEPTED:
            row["accepted_wall_at"] = one.wall_at
        else:
            row["finished_wall_at"] = one.wall_at
            row["detail"], row["incarnation_after"] = one.detail, one.incarnation
        told.append(_event(one.wall_at, one.after, one.node_id, one.command_id, row["kind"], one.detail))
        changed[one.command_id] = row
        results.append(Moved.YES)
    if changed:
        connection = await session.connection()
        await connection.execute(_TAKE_NEWS, list(changed.values()))
        await events.append_many(session, told)
    return results


_NEWS_COLUMNS: Final = ("sent_wall_at", "accepted_wall_at", "finished_wall_at", "detail", "incarnation_after")
_TAKE_NEWS: Final = (
    update(CommandRow)
    .where(CommandRow.id == bindparam("of_id"))
    .values(
        state=bindparam("state"),
        version_id=CommandRow.version_id + 1,
        **{name: bindparam(name) for name in _NEWS_COLUMNS},
    )
)


async def _for_update(session: AsyncSession, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Give what `take_news` may change of these commands, held until the transaction ends."""
    names = ("node_id", "kind", "state", *_NEWS_COLUMNS)
    columns = [getattr(CommandRow, name) for name in names]
    found: dict[str, dict[str, Any]] = {}
    for chunk in _chunks(ids):
        query = select(CommandRow.id, *columns).where(CommandRow.id.in_(chunk)).with_for_update()
        for row in await session.execute(query):
            found[row.id] = {"of_id": row.id, **dict(zip(names, row[1:], strict=True))}
    return found


def _event(
    wall_at: float, after: CommandState, node_id: str, command_id: str, kind: str, detail: str
) -> dict[str, Any]:
    told = {"command": command_id, "kind": kind, "detail": detail}
    return {"wall_at": wall_at, "type": f"command.{after}", "node_id": node_id, "detail": told}


def _chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(ids)
    return (ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK))
