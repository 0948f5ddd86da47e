"""Rollouts and their steps in the database; what `core.rollout` decides is kept before anything is done about it.

A rollout's row carries a version: what was decided upon an older one is not stored, and the caller reads
again. A step's command is stored in the transaction that marks it as ordered, by the caller. Knows no
connections and no monotonic time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, insert, select, update

from server_stub import events
from server_stub.core.rollout import ENDED, IN_FLIGHT, RolloutState, StepState
from server_stub.store.commands import KeyReused
from server_stub.store.tables import NodeRow, RolloutRow, RolloutStepRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.core.rollout import Change


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout's row at one moment, free of any session."""

    id: str
    kind: str
    reason: str
    actor: str
    selector: str
    parameters: Mapping[str, Any]
    time_to_live_s: float
    concurrency: int
    failures_allowed: int
    health_timeout_s: float
    idempotency_key: str | None
    fingerprint: str
    state: str
    detail: str
    created_wall_at: float
    finished_wall_at: float | None
    version_id: int

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step's row at one moment."""

    position: int
    node_id: str
    state: str
    command_id: str | None
    detail: str
    began_wall_at: float | None
    finished_wall_at: float | None
    node_name: str | None
    """None: the node was deleted."""


_COLUMNS: Final = [getattr(RolloutRow, name) for name in RolloutRecord.__slots__]
_STEP_COLUMNS: Final = [
    *(getattr(RolloutStepRow, name) for name in StepRecord.__slots__ if name != "node_name"),
    NodeRow.name,
]


async def begin(
    session: AsyncSession, new: RolloutRecord, node_ids: Sequence[str]
) -> tuple[RolloutRecord, bool]:
    """Store a new rollout with its steps, or give the one that the same request made; tells whether it is new.

    Raises:
        KeyReused: the key was used for another request.
    """
    earlier = None if new.idempotency_key is None else await of_key(session, new.idempotency_key)
    if earlier is not None:
        if earlier.fingerprint != new.fingerprint:
            raise KeyReused(f"this key made rollout {earlier.id}, from another request")
        return earlier, False
    await session.execute(insert(RolloutRow), [asdict(new)])
    steps = [
        {"rollout_id": new.id, "position": position, "node_id": node_id, "state": str(StepState.WAITING)}
        for position, node_id in enumerate(node_ids)
    ]
    await session.execute(insert(RolloutStepRow), steps)
    events.append(
        session,
        new.created_wall_at,
        "rollout.started",
        None,
        rollout=new.id,
        kind=new.kind,
        nodes=len(steps),
        concurrency=new.concurrency,
        actor=new.actor,
        reason=new.reason,
    )
    return new, True


async def find(session: AsyncSession, rollout_id: str) -> RolloutRecord | None:
    """Give the rollout of this id."""
    row = (await session.execute(select(*_COLUMNS).where(RolloutRow.id == rollout_id))).one_or_none()
    return None if row is None else RolloutRecord(*row)


async def of_key(session: AsyncSession, key: str) -> RolloutRecord | None:
    """Give the rollout that the request with this idempotency key made."""
    row = (await session.execute(select(*_COLUMNS).where(RolloutRow.idempotency_key == key))).one_or_none()
    return None if row is None else RolloutRecord(*row)


async def newest(
    session: AsyncSession, states: Collection[str] | None, before: str | None, limit: int
) -> list[RolloutRecord]:
    """Give the last rollouts, newest first: those in one of `states`, older than the id `before`."""
    query = select(*_COLUMNS).order_by(RolloutRow.id.desc()).limit(limit)
    if states is not None:
        query = query.where(RolloutRow.state.in_(states))
    if before is not None:
        query = query.where(RolloutRow.id < before)
    return [RolloutRecord(*row) for row in await session.execute(query)]


async def unfinished(session: AsyncSession) -> list[RolloutRecord]:
    """Give all rollouts that have not ended, oldest first."""
    open_states = [str(state) for state in RolloutState if state not in ENDED]
    query = select(*_COLUMNS).where(RolloutRow.state.in_(open_states)).order_by(RolloutRow.id)
    return [RolloutRecord(*row) for row in await session.execute(query)]


async def steps(session: AsyncSession, rollout_id: str) -> list[StepRecord]:
    """Give the steps of a rollout in their order."""
    query = (
        select(*_STEP_COLUMNS)
        .outerjoin(NodeRow, NodeRow.id == RolloutStepRow.node_id)
        .where(RolloutStepRow.rollout_id == rollout_id)
        .order_by(RolloutStepRow.position)
    )
    return [StepRecord(*row) for row in await session.execute(query)]


async def count_steps(session: AsyncSession, ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Give, for each of the rollouts, how many of its steps are in which state."""
    counted = {rollout_id: dict.fromkeys(map(str, StepState), 0) for rollout_id in ids}
    query = (
        select(RolloutStepRow.rollout_id, RolloutStepRow.state, func.count())
        .where(RolloutStepRow.rollout_id.in_(ids))
        .group_by(RolloutStepRow.rollout_id, RolloutStepRow.state)
    )
    for rollout_id, state, number in await session.execute(query):
        counted[rollout_id][state] = number
    return counted


async def claim(
    session: AsyncSession, record: RolloutRecord, state: RolloutState, detail: str, wall_at: float
) -> bool:
    """Bring the rollout from the version that was read to its next; False if somebody else has done so."""
    has_ended = state in ENDED
    won = await session.scalar(
        update(RolloutRow)
        .where(RolloutRow.id == record.id, RolloutRow.version_id == record.version_id)
        .values(
            state=str(state),
            detail=detail,
            version_id=RolloutRow.version_id + 1,
            finished_wall_at=wall_at if has_ended else None,
        )
        .returning(RolloutRow.id)
        .execution_options(synchronize_session=False)
    )
    if won is None:
        return False
    if state != record.state:
        type_ = "rollout.ended" if has_ended else f"rollout.{state}"
        events.append(session, wall_at, type_, None, rollout=record.id, state=str(state), detail=detail)
    return True


async def change_steps(
    session: AsyncSession,
    rollout_id: str,
    changes: Sequence[Change],
    node_ids: Mapping[int, str],
    command_ids: Mapping[int, str],
    wall_at: float,
) -> None:
    """Store the new states of steps; `node_ids` and `command_ids` go by position."""
    if not changes:
        return
    table = RolloutStepRow.__table__
    statement = (
        update(RolloutStepRow)
        .where(table.c.rollout_id == bindparam("of_rollout"), table.c.position == bindparam("at_position"))
        .values(
            state=bindparam("new_state"),
            detail=bindparam("new_detail"),
            command_id=func.coalesce(bindparam("new_command"), table.c.command_id),
            began_wall_at=func.coalesce(table.c.began_wall_at, bindparam("began")),
            finished_wall_at=bindparam("ended"),
        )
    )
    rows = []
    told = []
    for change in changes:
        is_under_way = change.state in IN_FLIGHT
        rows.append(
            {
                "of_rollout": rollout_id,
                "at_position": change.position,
                "new_state": str(change.state),
                "new_detail": change.detail,
                "new_command": command_ids.get(change.position),
                "began": wall_at if is_under_way else None,
                "ended": None if is_under_way else wall_at,
            }
        )
        told.append(
            {
                "wall_at": wall_at,
                "type": "rollout.step",
                "node_id": node_ids[change.position],
                "detail": {"rollout": rollout_id, "state": str(change.state), "detail": change.detail},
            }
        )
    connection = await session.connection()
    await connection.execute(statement, rows)
    await events.append_many(session, told)
