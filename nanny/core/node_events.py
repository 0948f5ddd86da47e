"""What befell the nanny and its node rather than the worker: start, end, late timers, suspend, journal.

None of it is ever a reason to end a worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nanny.core import commands, link_life, liveness, recovery_ladder, worker_life
from nanny.core.child import Child, Stage
from nanny.core.records import Desired, EpochMinted, HoldSet
from nanny.core.state import ConditionType, Reason, Then

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import (
        HealthSocketLost,
        HealthSocketRestored,
        JournalDegraded,
        JournalRecovered,
        NannyStarted,
        NannyWasLate,
        NodeResumed,
        NumbersConfirmed,
        ResidueObserved,
        ShutdownRequested,
    )


def started(draft: Draft, event: NannyStarted) -> None:  # noqa: ARG001
    """The first decision: adopt, spawn or stop as is wanted, and take up the commands found open."""
    worker_life.reserve_numbers(draft)
    if draft.state.link.stage is Stage.ABSENT:
        link_life.spawn(draft)
    commands.resume_intent(draft)
    state = draft.state
    if state.intent.desired is Desired.UP and state.worker.stage is Stage.ABSENT:
        worker_life.spawn(draft)
    elif state.intent.desired is Desired.DOWN and state.worker.is_live and state.stopping is None:
        recovery_ladder.begin(draft, Reason.STOP_ORDERED, f"{state.intent.actor}: {state.intent.reason}")
    for entry in draft.state.ledger.pending:
        commands.resume(draft, entry)


def shutdown_requested(draft: Draft, event: ShutdownRequested) -> None:  # noqa: ARG001
    """Worker, then link, are stopped in order; the desired state stays what it is."""
    if draft.state.is_shutting_down:
        return
    draft.change(is_shutting_down=True)
    state = draft.state
    if state.worker.stage is Stage.BACKOFF:
        draft.change(worker=Child(since=draft.now, failures=state.worker.failures))
    elif state.worker.stage in {Stage.STARTING, Stage.READY} and state.stopping is None:
        recovery_ladder.begin(draft, Reason.SHUTDOWN, "the nanny was asked to end")
    if state.link.stage is Stage.BACKOFF:
        draft.change(link=Child(since=draft.now))
    worker_life.finish_shutdown(draft)


def was_late(draft: Draft, event: NannyWasLate) -> None:  # noqa: ARG001
    """Silence proves nothing: every liveness deadline moves to two beats from now at least."""
    liveness.grant_beats(draft)


def resumed(draft: Draft, event: NodeResumed) -> None:
    """As after a late timer; what is counted in real time (a hold) has run on meanwhile."""
    liveness.grant_beats(draft)
    hold = draft.state.hold
    if hold is not None:
        hold = replace(hold, until=hold.until - event.away_s)
        draft.change(hold=hold)
        draft.record(HoldSet(hold.until, hold.actor, hold.reason))


def journal_degraded(draft: Draft, event: JournalDegraded) -> None:
    """Supervision goes on; what is wanted can't be changed; unreserved numbers are not used."""
    draft.change(journal_degraded=True)
    draft.set_condition(ConditionType.JOURNAL_DEGRADED, "NotDurable", event.message)
    state = draft.state
    if state.worker.stage is not Stage.SPAWNING or state.then is not Then.RESTART:
        return
    incarnation = state.incarnation
    assert incarnation is not None
    if incarnation.epoch != state.spare_epoch and incarnation.number > state.reserved_until:
        # Its number was never made durable: another nanny could use it again. It is still parked or unborn.
        worker_life.spawn(draft)


def journal_recovered(draft: Draft, event: JournalRecovered) -> None:
    """Records are durable again; numbers are reserved anew."""
    state = draft.state
    draft.change(journal_degraded=False, spare_epoch=event.spare_epoch)
    draft.clear_condition(ConditionType.JOURNAL_DEGRADED, "Durable")
    if state.epoch == state.spare_epoch:
        draft.record(EpochMinted(state.epoch))
        draft.change(reserved_until=state.next_number - 1, reserving_until=state.next_number - 1)
    else:
        draft.change(reserving_until=state.reserved_until)
    worker_life.reserve_numbers(draft)


def numbers_confirmed(draft: Draft, event: NumbersConfirmed) -> None:
    """The reservation is durable."""
    if event.epoch != draft.state.epoch:
        return
    until = min(max(event.until, draft.state.reserved_until), draft.state.reserving_until)
    draft.change(reserved_until=until)


def residue_observed(draft: Draft, event: ResidueObserved) -> None:
    """Left-over processes in uninterruptible sleep: a condition, never a reason to restart."""
    if event.count > 0:
        draft.set_condition(
            ConditionType.PROBE_RESIDUE,
            "UninterruptibleSleep",
            f"{event.count} process(es) of dead workers can't be ended; a reboot of the node would free them",
        )
    else:
        draft.clear_condition(ConditionType.PROBE_RESIDUE, "Gone")


def health_socket_lost(draft: Draft, event: HealthSocketLost) -> None:
    """/healthz has no listening socket: tried again at the next incarnation."""
    draft.set_condition(ConditionType.HEALTH_SOCKET_LOST, "NotListening", event.message)


def health_socket_restored(draft: Draft, event: HealthSocketRestored) -> None:  # noqa: ARG001
    """/healthz has its listening socket again."""
    draft.clear_condition(ConditionType.HEALTH_SOCKET_LOST, "Listening")
