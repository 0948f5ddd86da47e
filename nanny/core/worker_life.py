"""The life of the worker: spawned, parked, released, ready, ended, tried again.

Nothing here asks why a worker went away before it brings the next one: only the intent decides whether
there is a next one. Judging a living worker is ``liveness``; ending one is ``recovery_ladder``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nanny.core import child
from nanny.core.actions import (
    AbandonWorker,
    CollectEvidence,
    ConfirmNumbers,
    ExitNanny,
    FenceWorker,
    Outcome,
    ReleaseWorker,
    Signal,
    SignalLink,
    SignalWorker,
    SpawnWorker,
)
from nanny.core.child import Stage
from nanny.core.config import NUMBERS_PER_BLOCK, RESERVE_AHEAD
from nanny.core.events import CommandKind
from nanny.core.records import (
    Desired,
    EpochMinted,
    IncarnationEnded,
    IncarnationFenced,
    IncarnationReady,
    IncarnationStarted,
    NumbersReserved,
)
from nanny.core.settlement import settle_down, settle_failed_start, settle_ready
from nanny.core.state import ConditionType, LastRestart, Reason, Rung, Stopping, Then, Vitals
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import SpawnFailed, WorkerExited, WorkerParked

ORDERED: Final = frozenset({Reason.RESTART_ORDERED, Reason.STOP_ORDERED, Reason.SHUTDOWN})
"""Ends that are no failure: no backoff, nothing counted."""


def spawn(draft: Draft) -> None:
    """Ask for the next life of the worker."""
    reserve_numbers(draft)
    state = draft.state
    available = state.reserved_until if state.journal_degraded else state.reserving_until
    if state.epoch != state.spare_epoch and state.next_number > available:
        draft.change(epoch=state.spare_epoch, next_number=1)
    state = draft.state
    incarnation = Incarnation(state.epoch, state.next_number)
    draft.change(
        next_number=state.next_number + 1,
        incarnation=incarnation,
        worker=child.spawning(state.worker, draft.now, draft.config.worker),
        vitals=Vitals(),
    )
    draft.act(SpawnWorker(incarnation))


def reserve_numbers(draft: Draft) -> None:
    """Keep at least half a block of numbers reserved ahead, while there is a journal to say so."""
    state = draft.state
    if state.journal_degraded or state.next_number + RESERVE_AHEAD <= state.reserving_until:
        return
    until = max(state.next_number - 1, state.reserving_until) + NUMBERS_PER_BLOCK
    draft.change(reserving_until=until)
    if until == NUMBERS_PER_BLOCK:
        draft.record(EpochMinted(state.epoch))
    draft.record(NumbersReserved(until))
    draft.act(ConfirmNumbers(state.epoch, until))


def parked(draft: Draft, event: WorkerParked) -> None:
    """Born parked: recorded, then released; abandoned when it is no longer wanted."""
    state, now = draft.state, draft.now
    if state.worker.stage is not Stage.SPAWNING:
        return
    unwanted = _unwanted(draft)
    draft.change(worker=child.born(state.worker, event.pid, now, draft.config.worker))
    if unwanted is not None:
        deadline = now + draft.config.worker.unkillable_timeout_s
        stopping = Stopping(unwanted, "not yet released", now, Rung.KILL, (), deadline)
        draft.change(stopping=stopping)
        draft.act(AbandonWorker(event.incarnation), SignalWorker(event.incarnation, Signal.KILL))
        return
    draft.record(IncarnationStarted(event.incarnation, event.pid, event.start_time_ticks))
    draft.act(ReleaseWorker(event.incarnation))
    if draft.state.worker.stage is Stage.READY:
        _announce_ready(draft, 0.0)


def _unwanted(draft: Draft) -> Reason | None:
    state = draft.state
    if state.is_shutting_down:
        return Reason.SHUTDOWN
    if state.intent.desired is Desired.DOWN:
        return Reason.STOP_ORDERED
    return Reason.RESTART_ORDERED if _is_restart_ordered(draft) else None


def _is_restart_ordered(draft: Draft) -> bool:
    """Whether a command waits for a successor of the present life; it overrides one backoff."""
    incarnation = draft.state.incarnation
    restarts = draft.state.ledger.of_kind(CommandKind.RESTART)
    return any(entry.command.target == incarnation for entry in restarts)


def became_ready(draft: Draft) -> None:
    """The worker said READY=1."""
    after_s = draft.now - draft.state.worker.since
    draft.change(worker=child.ready(draft.state.worker, draft.now, draft.config.worker))
    _announce_ready(draft, after_s)


def _announce_ready(draft: Draft, after_s: float) -> None:
    incarnation = draft.state.incarnation
    assert incarnation is not None
    draft.record(IncarnationReady(incarnation, round(after_s, 3)))
    settle_ready(draft)


def abandon(draft: Draft, event: WorkerParked) -> None:
    """Born too late, its birth was given up: it ends at the gate."""
    draft.act(AbandonWorker(event.incarnation))


def spawn_failed(draft: Draft, event: SpawnFailed) -> None:
    """No child could be made: a failure, tried again after the backoff."""
    _ended(draft, Reason.SPAWN_FAILED, event.message, failed=True)


def exited(draft: Draft, event: WorkerExited) -> None:
    """An exit of any kind: a failure, evidence that survives is kept, the next life follows."""
    draft.act(CollectEvidence(event.incarnation, Reason.EXITED, post_mortem=True))
    _ended(draft, Reason.EXITED, event.status, failed=True)


def stopped(draft: Draft, event: WorkerExited) -> None:
    """The end that the ladder was after: next life, down, or exit of the nanny."""
    stopping = draft.state.stopping
    assert stopping is not None
    _ended(draft, stopping.reason, event.status, failed=stopping.reason not in ORDERED)


def fence(draft: Draft) -> None:
    """SIGKILL did not end it: refuse it everywhere, and go on without it."""
    stopping, incarnation = draft.state.stopping, draft.state.incarnation
    assert stopping is not None
    assert incarnation is not None
    draft.change(fenced=(*draft.state.fenced, incarnation))
    draft.record(IncarnationFenced(incarnation, stopping.reason))
    draft.act(FenceWorker(incarnation))
    draft.set_condition(
        ConditionType.WORKER_UNKILLABLE,
        "SurvivedSigkill",
        f"{incarnation} does not die of SIGKILL (uninterruptible sleep); a reboot of the node is recommended",
    )
    settle_down(draft, Outcome.FAILED, f"{incarnation} does not die of SIGKILL; it is fenced")
    _ended(draft, stopping.reason, "fenced", failed=stopping.reason not in ORDERED, dead=False)


def fenced_exited(draft: Draft, event: WorkerExited) -> None:
    """A fenced life has ended after all."""
    draft.change(fenced=tuple(one for one in draft.state.fenced if one != event.incarnation))
    draft.record(IncarnationEnded(event.incarnation, "fenced", event.status, draft.state.worker.failures))
    if not draft.state.fenced:
        draft.clear_condition(ConditionType.WORKER_UNKILLABLE, "Exited")


def _ended(draft: Draft, reason: Reason, detail: str, *, failed: bool, dead: bool = True) -> None:
    """The current life is over; what follows is decided by the intent alone."""
    state, now, timing = draft.state, draft.now, draft.config.worker
    incarnation, stopping = state.incarnation, state.stopping
    assert incarnation is not None
    if failed:
        after = child.failed(state.worker, now, timing, f"{draft.config.node_id}/{incarnation}")
    else:
        after = child.gone(state.worker, now, timing)
    if state.then is not Then.RESTART:
        # A stop by order forgives; the end of the nanny does not.
        forgiven = state.then is Then.DOWN
        after = child.Child(since=now, failures=0 if forgiven else after.failures)
    if dead:
        draft.record(IncarnationEnded(incarnation, reason, detail, after.failures))
    if failed and state.worker.stage is not Stage.READY:
        settle_failed_start(draft, detail if stopping is None else stopping.reason)
    draft.change(worker=after, stopping=None, vitals=Vitals())
    _note_crash_loop(draft)
    match state.then:
        case Then.RESTART:
            why = detail if stopping is None else stopping.detail
            draft.change(last_restart=LastRestart(reason, why, now, incarnation))
            if after.deadline is None or after.deadline <= now or _is_restart_ordered(draft):
                spawn(draft)
        case Then.DOWN:
            settle_down(draft, Outcome.DONE, "no worker lives")
        case Then.EXIT:
            finish_shutdown(draft)


def _note_crash_loop(draft: Draft) -> None:
    looping = child.is_crash_looping(draft.state.worker, draft.config.worker)
    draft.change(is_crash_looping=looping)
    if looping:
        ceiling_s = draft.config.worker.backoff_ceiling_s
        draft.set_condition(
            ConditionType.CRASH_LOOPING,
            "TooManyFailures",
            f"{draft.state.worker.failures} failures in a row; retried every {ceiling_s:g} s at most",
        )
    else:
        draft.clear_condition(ConditionType.CRASH_LOOPING, "Recovered")


def retry(draft: Draft) -> None:
    """The wait is over, or was overridden."""
    spawn(draft)


def forget_failures(draft: Draft) -> None:
    """Past failures no longer count."""
    draft.change(worker=replace(draft.state.worker, failures=0))
    _note_crash_loop(draft)


def finish_shutdown(draft: Draft) -> None:
    """The nanny ends when worker and link have, the worker first."""
    state = draft.state
    if not state.is_shutting_down or state.worker.is_live:
        return
    if not state.link.is_live:
        draft.act(ExitNanny())
    elif state.link_signal is None and state.link.stage is not Stage.SPAWNING:
        ending = replace(state.link, deadline=draft.now + draft.config.abort_grace_s)
        draft.change(link=ending, link_signal=Signal.TERMINATE)
        draft.act(SignalLink(state.link_number, Signal.TERMINATE))
