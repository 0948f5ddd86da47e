"""Is the worker alive, degraded, stalled or lost: heartbeats and the kernel's answers in, a verdict out.

Three verdicts that are never mixed: the worker is hung (ladder); the driver is hung (a condition, never a
restart); the node is starved or was away (more time, bounded, then a condition and the ladder). Nothing
that the worker says about its own end is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nanny.core import child, recovery_ladder, worker_life
from nanny.core.actions import ExamineWorker
from nanny.core.child import Stage
from nanny.core.config import HeartbeatMode
from nanny.core.state import ConditionType, Reason, Rung, Suspicion, SuspicionKind

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import HeartbeatReceived, MemoryMeasured, WorkerExamined


def beat_while_starting(draft: Draft, event: HeartbeatReceived) -> None:
    """A beat; READY=1 makes it running, EXTEND_TIMEOUT_USEC moves the start deadline."""
    timing = draft.config.worker
    worker = child.beat(draft.state.worker, draft.now, timing)
    if event.extend_s > 0:
        worker = child.extend(worker, event.extend_s, draft.now, timing)
    draft.change(worker=worker)
    if event.ready and worker.stage is Stage.STARTING:
        worker_life.became_ready(draft)
    _note_driver(draft, event)


def beat_while_ready(draft: Draft, event: HeartbeatReceived) -> None:
    """A beat ends every silence; its ages say whether the loop or a progress point stalls."""
    state, now, timing, config = draft.state, draft.now, draft.config.worker, draft.config
    before, vitals = state.worker, state.vitals
    proves_life = event.watchdog or event.ready
    worker = child.beat(before, now, timing) if proves_life else before
    if event.extend_s > 0:
        worker = child.extend(worker, event.extend_s, now, timing)
    if event.stopping and worker.deadline is not None:
        # It is on its way out and may fall silent meanwhile; the exit that follows is an exit like any other.
        worker = replace(worker, deadline=max(worker.deadline, now + timing.stop_grace_s))
    lag_s = event.loop_lag_s or 0.0
    stalls = lag_s > config.stall_timeout_s or bool(event.overdue)
    expect_used_s = vitals.expect_used_s
    if stalls and event.expected_s > 0 and expect_used_s < config.expect_limit_s:
        expect_used_s += now - (before.last_beat_at or before.since)
        stalls = False
    suspicion = vitals.suspicion
    if suspicion is not None and proves_life and (suspicion.kind is SuspicionKind.LOST or not stalls):
        suspicion = None
    if suspicion is None and stalls:
        since = now - lag_s
        suspicion = Suspicion(SuspicionKind.STALLED, since, now + config.examine_timeout_s, asked=True)
        draft.act(_examine(draft, since))
    vitals = replace(
        vitals,
        loop_lag_s=lag_s,
        overdue=event.overdue,
        stalled_at=event.stalled_at,
        warned=lag_s > config.stall_warn_s or bool(event.overdue),
        expect_used_s=expect_used_s,
        suspicion=suspicion,
        triggered=vitals.triggered or event.trigger,
    )
    draft.change(worker=worker, vitals=vitals)
    if state.conditions and suspicion is None:
        draft.clear_condition(ConditionType.NODE_STARVED, "BeatsInTime")
        if state.hold is None and not vitals.triggered:
            draft.clear_condition(ConditionType.KILLS_HELD, "NothingToHold")
    _note_driver(draft, event)
    if event.trigger:
        _end_involuntarily(draft, Reason.TRIGGERED, "the worker asked to be restarted (WATCHDOG=trigger)")


def beat_while_stopping(draft: Draft, event: HeartbeatReceived) -> None:
    """Only EXTEND_TIMEOUT_USEC counts, during the stop's grace, up to its limit."""
    stopping = draft.state.stopping
    assert stopping is not None
    if stopping.rung is not Rung.TERMINATE or event.extend_s <= 0:
        return
    timing = draft.config.worker
    limit = stopping.since + timing.stop_grace_s + timing.extend_limit_s
    deadline = min(max(stopping.deadline, draft.now + event.extend_s), limit)
    draft.change(stopping=replace(stopping, deadline=deadline))


def _note_driver(draft: Draft, event: HeartbeatReceived) -> None:
    if event.stuck_probes > 0:
        draft.set_condition(
            ConditionType.GPU_DRIVER_UNRESPONSIVE,
            "ProbeOverran",
            f"{event.stuck_probes} probe(s) of the driver do not return; the worker is not restarted for it",
        )
    elif draft.state.conditions:
        draft.clear_condition(ConditionType.GPU_DRIVER_UNRESPONSIVE, "ProbesReturn")


def fell_silent(draft: Draft) -> None:
    """The beat deadline passed: ask the kernel before any verdict."""
    worker, vitals = draft.state.worker, draft.state.vitals
    since = worker.last_beat_at if worker.last_beat_at is not None else worker.since
    since = max(since, worker.since)
    extended_s = 0.0 if vitals.suspicion is None else vitals.suspicion.extended_s
    deadline = draft.now + draft.config.examine_timeout_s
    suspicion = Suspicion(SuspicionKind.LOST, since, deadline, asked=True, extended_s=extended_s)
    draft.change(worker=replace(worker, deadline=None), vitals=replace(vitals, suspicion=suspicion))
    draft.act(_examine(draft, since))


def _examine(draft: Draft, since: float) -> ExamineWorker:
    incarnation = draft.state.incarnation
    assert incarnation is not None
    return ExamineWorker(incarnation, since)


def suspicion_due(draft: Draft) -> None:
    """Time to judge: ask (again), or go on without an answer that did not come."""
    suspicion = draft.state.vitals.suspicion
    assert suspicion is not None
    if suspicion.asked:
        _judge(draft, suspicion, process_state="?")
        return
    asked = replace(suspicion, asked=True, deadline=draft.now + draft.config.examine_timeout_s)
    draft.change(vitals=replace(draft.state.vitals, suspicion=asked))
    draft.act(_examine(draft, suspicion.since))


def examined(draft: Draft, event: WorkerExamined) -> None:
    """The kernel's answer: held or traced waits, starved gets more time, else down the ladder."""
    suspicion = draft.state.vitals.suspicion
    if suspicion is None or not suspicion.asked:
        return
    if event.traced:
        _hold_off(draft, "Traced", "a debugger is attached to the worker")
        return
    silence_s = draft.now - suspicion.since
    lost_s = max(event.runqueue_wait_s, event.throttled_s)
    starved = lost_s > silence_s / 2
    if event.process_state == "D":
        starved, lost_s = True, max(lost_s, silence_s)
    left_s = draft.config.starvation_limit_s - suspicion.extended_s
    if starved and left_s > 0:
        more_s = min(max(lost_s, draft.config.worker.heartbeat_interval_s), left_s)
        waiting = replace(
            suspicion, asked=False, deadline=draft.now + more_s, extended_s=suspicion.extended_s + more_s
        )
        draft.change(vitals=replace(draft.state.vitals, suspicion=waiting))
        return
    if starved:
        draft.set_condition(
            ConditionType.NODE_STARVED,
            "UninterruptibleSleep" if event.process_state == "D" else "NoProcessorTime",
            f"the worker was kept from running for {lost_s:.1f} s of {silence_s:.1f} s",
        )
    _judge(draft, suspicion, event.process_state)


def _judge(draft: Draft, suspicion: Suspicion, process_state: str) -> None:
    vitals = draft.state.vitals
    if suspicion.kind is SuspicionKind.LOST:
        silence_s = draft.now - suspicion.since
        _end_involuntarily(
            draft, Reason.LOST, f"no heartbeat for {silence_s:.1f} s, process state {process_state}"
        )
        return
    what = f"loop lag {vitals.loop_lag_s:.1f} s"
    if vitals.overdue:
        what += f", overdue: {', '.join(vitals.overdue)}"
    if vitals.stalled_at:
        what += f", in {vitals.stalled_at}"
    _end_involuntarily(draft, Reason.STALLED, what)


def _end_involuntarily(draft: Draft, reason: Reason, detail: str) -> None:
    hold = draft.state.hold
    if hold is not None:
        _hold_off(draft, "Held", f"held by {hold.actor} ({hold.reason}); would end it: {detail}")
        return
    draft.clear_condition(ConditionType.KILLS_HELD, "KillGoesAhead")
    recovery_ladder.begin(draft, reason, detail)


def _hold_off(draft: Draft, reason: str, message: str) -> None:
    draft.set_condition(ConditionType.KILLS_HELD, reason, message)
    suspicion = draft.state.vitals.suspicion
    if suspicion is not None:
        again = draft.now + draft.config.worker.heartbeat_interval_s
        waiting = replace(suspicion, asked=False, deadline=again)
        draft.change(vitals=replace(draft.state.vitals, suspicion=waiting))


def start_overdue(draft: Draft) -> None:
    """The worker was not ready in time."""
    worker, timing = draft.state.worker, draft.config.worker
    if draft.state.hold is not None:
        draft.change(worker=replace(worker, deadline=draft.now + timing.heartbeat_interval_s))
    _end_involuntarily(draft, Reason.START_TIMEOUT, f"not ready within {draft.now - worker.since:.1f} s")


def memory_measured(draft: Draft, event: MemoryMeasured) -> None:
    """Over the hard limit (off by default): down the ladder, gently."""
    limit = draft.config.memory_limit_bytes
    if limit is not None and event.rss_bytes > limit:
        _end_involuntarily(draft, Reason.MEMORY_LIMIT, f"{event.rss_bytes} bytes resident, limit {limit}")


def hold_ended(draft: Draft) -> None:
    """Kills are no longer suspended: what was only held off is decided now or at its own deadline."""
    draft.clear_condition(ConditionType.KILLS_HELD, "Released")
    if (
        draft.state.vitals.triggered
        and draft.state.worker.stage is Stage.READY
        and draft.state.stopping is None
    ):
        _end_involuntarily(draft, Reason.TRIGGERED, "the worker asked to be restarted (WATCHDOG=trigger)")


def hold_began(draft: Draft) -> None:
    """A kill that nobody has signalled yet is called off."""
    if not recovery_ladder.call_off(draft):
        return
    worker, timing = draft.state.worker, draft.config.worker
    deadline = draft.now + timing.heartbeat_timeout_s
    if worker.stage is Stage.READY and timing.mode is not HeartbeatMode.WATCHDOG:
        draft.change(worker=replace(worker, deadline=None))
    else:
        draft.change(worker=replace(worker, deadline=deadline))


def grant_beats(draft: Draft) -> None:
    """The nanny or the node was away: every liveness deadline is at least two beats from now."""
    state = draft.state
    draft.change(
        worker=_not_before(state.worker, draft.now + 2 * draft.config.worker.heartbeat_interval_s),
        link=_not_before(
            state.link, draft.now + 2 * (draft.config.link or draft.config.worker).heartbeat_interval_s
        ),
    )
    suspicion = state.vitals.suspicion
    if suspicion is not None and state.stopping is None:
        deadline = max(suspicion.deadline, draft.now + 2 * draft.config.worker.heartbeat_interval_s)
        waiting = replace(suspicion, asked=False, deadline=deadline)
        draft.change(vitals=replace(state.vitals, suspicion=waiting))


def _not_before(one: child.Child, deadline: float) -> child.Child:
    if one.deadline is None or one.stage not in {Stage.STARTING, Stage.READY} or one.deadline >= deadline:
        return one
    return replace(one, deadline=deadline)
