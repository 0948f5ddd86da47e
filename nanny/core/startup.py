"""The first state after a start: the journal's records folded up, plus what still lives.

Pure: the shell reads journal and /run, checks which processes are alive (pid, start time, boot id) and hands
the facts in. Also its inverse, ``compact``: the few records from which the same state would be folded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from nanny.core.child import Child, Stage
from nanny.core.command_ledger import Finished, Pending
from nanny.core.config import HeartbeatMode
from nanny.core.records import (
    CommandAccepted,
    CommandFinished,
    ConditionChanged,
    DesiredSet,
    DrainSet,
    EpochMinted,
    EvidenceSaved,
    HoldSet,
    IncarnationEnded,
    IncarnationFenced,
    IncarnationReady,
    IncarnationStarted,
    NumbersReserved,
    OutcomeDelivered,
    StopDecided,
)
from nanny.core.state import Condition, ConditionType, Hold, Intent, NannyState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nanny.core.config import PolicyConfig
    from nanny.core.records import Record
    from nanny.protocol.incarnation import Incarnation


@dataclass(frozen=True, slots=True)
class Living:
    """A worker of an earlier nanny that is still alive, proven by pid, start time and boot id."""

    incarnation: Incarnation
    pid: int
    was_ready: bool
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start knows before its first decision."""

    state: NannyState
    dead_unrecorded: tuple[Incarnation, ...]
    """Lives that the journal has begun and not ended, and that are gone: their ends are to be recorded."""


def recover(
    records: Iterable[tuple[Record, float | None]],
    living: tuple[Living, ...],
    now: float,
    epochs: tuple[str, str],
    config: PolicyConfig,
) -> Recovered:
    """Fold the journal into a state, and adopt what lives.

    Args:
        records: each with the monotonic instant at which it was made; None in another boot.
        living: workers that still live, at most one of them not fenced.
        now: monotonic seconds.
        epochs: two fresh epochs: for a journal that has none, and the spare.
        config: the numbers in force.
    """
    fresh, spare = epochs
    state = NannyState(epoch=fresh, spare_epoch=spare)
    latest: Incarnation | None = None
    open_lives: dict[Incarnation, None] = {}
    failures = 0
    for record, at in records:
        match record:
            case EpochMinted(epoch):
                state = replace(state, epoch=epoch, reserved_until=0)
            case NumbersReserved(until):
                state = replace(state, reserved_until=max(until, state.reserved_until))
            case IncarnationStarted(incarnation, _, _):
                latest = incarnation
                open_lives[incarnation] = None
            case IncarnationEnded(incarnation, _, _, count):
                open_lives.pop(incarnation, None)
                failures = count
            case DesiredSet(desired, actor, reason):
                state = replace(state, intent=Intent(desired, actor, reason, at))
            case DrainSet(draining, _, _):
                state = replace(state, draining=draining)
            case HoldSet(until, actor, reason):
                hold = (
                    Hold(until, actor, reason)
                    if until is not None and until > now and at is not None
                    else None
                )
                state = replace(state, hold=hold)
            case CommandAccepted(command):
                entry = Pending(command, command.target or latest)
                state = replace(state, ledger=state.ledger.with_pending(entry))
            case CommandFinished():
                state = replace(state, ledger=state.ledger.with_finished(_finished(record)))
            case OutcomeDelivered(command_id):
                state = replace(state, ledger=state.ledger.with_acknowledged(command_id))
            case (
                IncarnationReady()
                | StopDecided()
                | IncarnationFenced()
                | EvidenceSaved()
                | ConditionChanged()
            ):
                pass
            case _ as never:
                assert_never(never)
    alive = {one.incarnation for one in living}
    dead = tuple(one for one in open_lives if one not in alive)
    numbers = [one.incarnation.number for one in living if one.incarnation.epoch == state.epoch]
    state = replace(
        state,
        # What is left of the last block is skipped: a number that may have been used is never used again.
        next_number=max([state.reserved_until, *numbers]) + 1,
        reserving_until=state.reserved_until,
        incarnation=latest,
        worker=Child(since=now, failures=failures),
    )
    return Recovered(_adopt(state, living, now, config), dead)


def _finished(record: CommandFinished) -> Finished:
    outcome, detail = record.outcome, record.detail
    return Finished(
        record.command_id, record.kind, outcome, detail, record.incarnation, acknowledged=record.local
    )


def _adopt(state: NannyState, living: tuple[Living, ...], now: float, config: PolicyConfig) -> NannyState:
    timing = config.worker
    for one in living:
        if one.fenced:
            message = f"{one.incarnation} does not die of SIGKILL; a reboot of the node is recommended"
            unkillable = Condition(ConditionType.WORKER_UNKILLABLE, "SurvivedSigkill", message, now)
            state = replace(state, fenced=(*state.fenced, one.incarnation), conditions=(unkillable,))
            continue
        is_ready = one.was_ready or timing.mode is HeartbeatMode.NONE
        if is_ready:
            # Its beats had nowhere to go meanwhile: two beats of grace on top of the ordinary time-out.
            grace_s = timing.heartbeat_timeout_s + 2 * timing.heartbeat_interval_s
            deadline = now + grace_s if timing.mode is HeartbeatMode.WATCHDOG else None
            child = Child(Stage.READY, now, deadline, one.pid, failures=state.worker.failures)
        else:
            deadline = now + timing.start_timeout_s
            child = Child(Stage.STARTING, now, deadline, one.pid, failures=state.worker.failures)
        state = replace(state, incarnation=one.incarnation, worker=child)
    return state


def compact(state: NannyState, living: tuple[IncarnationStarted, ...]) -> list[Record]:
    """The records from which ``recover`` would make this state again."""
    records: list[Record] = [EpochMinted(state.epoch), NumbersReserved(state.reserving_until)]
    intent = state.intent
    if intent != Intent():
        records.append(DesiredSet(intent.desired, intent.actor, intent.reason))
    if state.draining:
        records.append(DrainSet(draining=True, actor="journal", reason="compacted"))
    if state.hold is not None:
        records.append(HoldSet(state.hold.until, state.hold.actor, state.hold.reason))
    if state.incarnation is not None and not any(one.incarnation == state.incarnation for one in living):
        records.append(IncarnationStarted(state.incarnation, 0, 0))
        records.append(IncarnationEnded(state.incarnation, "compacted", "", state.worker.failures))
    elif state.incarnation is not None and state.worker.failures:
        records.append(IncarnationEnded(state.incarnation, "compacted", "", state.worker.failures))
    for started in living:
        records.append(started)
        if started.incarnation in state.fenced:
            records.append(IncarnationFenced(started.incarnation, "compacted"))
        elif started.incarnation == state.incarnation and state.worker.stage is Stage.READY:
            records.append(IncarnationReady(started.incarnation, 0.0))
    for one in state.ledger.finished:
        kind, outcome, detail, local = one.kind, one.outcome, one.detail, one.acknowledged
        records += [CommandFinished(one.command_id, kind, outcome, detail, one.incarnation, local=local)]
    for entry in state.ledger.pending:
        records += [CommandAccepted(replace(entry.command, target=entry.target))]
    return records
