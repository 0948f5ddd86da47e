"""The first state after a start: the journal's records folded up, plus what still lives.

Pure: the shell reads journal and /run, checks which processes are alive (pid, start time, boot id) and hands
the facts in. Also its inverse, ``compact``: the few records from which the same state would be folded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from nanny.core.actions import Outcome
from nanny.core.child import Child, Stage
from nanny.core.command_ledger import Finished, Pending
from nanny.core.config import HeartbeatMode
from nanny.core.events import CommandKind
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
    """Fold the journal into a state, and adopt what lives. A record that stands there twice counts once.

    Args:
        records: each with the monotonic instant at which it was made; None in another boot.
        living: workers that still live, at most one of them not fenced.
        now: monotonic seconds.
        epochs: two fresh epochs: for a journal that has none, and the spare.
        config: the numbers in force.
    """
    fresh, spare = sorted(epochs)
    state = NannyState(epoch=fresh, spare_epoch=spare)
    latest: Incarnation | None = None
    open_lives: dict[Incarnation, None] = {}
    minted: set[str] = set()
    begun = [one.incarnation for one in living]
    failures = 0
    for record, at in records:
        match record:
            case EpochMinted(epoch):
                minted.add(epoch)
                state = replace(state, epoch=epoch, reserved_until=0)
            case NumbersReserved(until):
                state = replace(state, reserved_until=max(until, state.reserved_until))
            case IncarnationStarted(incarnation, _, _):
                latest = incarnation
                begun.append(incarnation)
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
                if not state.ledger.knows(command.id):
                    state = replace(state, ledger=state.ledger.with_pending(Pending(command)))
            case CommandFinished(command_id, kind, outcome):
                if kind is CommandKind.CLEAR and outcome is Outcome.DONE:
                    failures = 0
                if state.ledger.find_finished(command_id) is None:
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
    if any(one.epoch != state.epoch and one.epoch not in minted for one in begun):
        # Begun without a journal: lives to come must not be taken for earlier ones than these.
        state = replace(state, epoch=fresh, reserved_until=0)
    used = max((one.number for one in begun if one.epoch == state.epoch), default=0)
    # What is left of the last block is skipped: a number that may have been used is never used again.
    used = max(used, state.reserved_until)
    state = replace(
        state,
        next_number=used + 1,
        reserved_until=used,
        reserving_until=used,
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
            failures = state.worker.failures
            child = Child(Stage.STARTING, now, deadline, one.pid, failures=failures, may_be_ready=True)
        state = replace(state, incarnation=one.incarnation, worker=child)
    return state


def compact(state: NannyState, living: tuple[IncarnationStarted, ...]) -> list[Record]:
    """The records from which ``recover`` would make this state again."""
    used = max(state.reserving_until, state.next_number - 1)
    lives = [one.incarnation for one in living] + ([] if state.incarnation is None else [state.incarnation])
    earlier = sorted({one.epoch for one in lives} - {state.epoch})
    records: list[Record] = [EpochMinted(epoch) for epoch in (*earlier, state.epoch)]
    records.append(NumbersReserved(used))
    intent = state.intent
    if intent != Intent():
        records.append(DesiredSet(intent.desired, intent.actor, intent.reason))
    if state.draining:
        records.append(DrainSet(draining=True, actor="journal", reason="compacted"))
    if state.hold is not None:
        records.append(HoldSet(state.hold.until, state.hold.actor, state.hold.reason))
    for one in state.ledger.finished:
        kind, outcome, detail, local = one.kind, one.outcome, one.detail, one.acknowledged
        records += [CommandFinished(one.command_id, kind, outcome, detail, one.incarnation, local=local)]
    # Behind the orders that cleared failures: those that it carries came later.
    records += _lives(state, living)
    for entry in state.ledger.pending:
        records += [CommandAccepted(entry.command)]
    return records


def _lives(state: NannyState, living: tuple[IncarnationStarted, ...]) -> list[Record]:
    """The life that owns the node stands last; an end before it carries the count of failures."""
    current = state.incarnation
    if current is None:
        return []
    records: list[Record] = [IncarnationEnded(current, "compacted", "", state.worker.failures)]
    for started in sorted(living, key=lambda one: one.incarnation == current):
        records.append(started)
        if started.incarnation in state.fenced:
            records.append(IncarnationFenced(started.incarnation, "compacted"))
        elif started.incarnation == current and state.worker.stage is Stage.READY:
            records.append(IncarnationReady(current, 0.0))
    if all(one.incarnation != current for one in living):
        records += [IncarnationStarted(current, 0, 0), records[0]]
    return records
