"""Is the worker alive, degraded, stalled or lost: heartbeats and the kernel's answers in, a verdict out.

Three verdicts that are never mixed: the worker is hung (ladder); the driver is hung (a condition, never a
restart); the node is starved or was away (more time, bounded, then a condition and the ladder). Nothing
that the worker says about its own end is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nanny.core import child, recovery_ladder, worker_life
from nanny.core.actions import ExamineWorker
from nanny.core.child import Stage
from nanny.core.config import HeartbeatMode
from nanny.core.state import ConditionType, Reason, Rung, Suspicion, SuspicionKind, Vitals

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import HeartbeatReceived, MemoryMeasured, WorkerExamined

_TRIGGERED: Final = "the worker asked to be restarted (WATCHDOG=trigger)"


def beat_while_starting(draft: Draft, event: HeartbeatReceived) -> None:
    """A beat; READY=1 makes it running, EXTEND_TIMEOUT_USEC moves the start deadline."""
    timing, vitals = draft.config.worker, draft.state.vitals
    worker = child.beat(draft.state.worker, draft.now, timing)
    if event.extend_s > 0:
        worker = child.extend(worker, event.extend_s, draft.now, timing)
    draft.change(worker=worker, vitals=replace(vitals, granted_s=0.0) if vitals.granted_s else vitals)
    if event.ready and worker.stage is Stage.STARTING:
        worker_life.became_ready(draft)
    _note_driver(draft, event)


def beat_while_ready(draft: Draft, event: HeartbeatReceived) -> None:
    """A beat ends every silence; its ages say whether the loop or a progress point stalls."""
    state, timing = draft.state, draft.config.worker
    worker, vitals = state.worker, state.vitals
    if event.watchdog or event.ready:
        vitals = _vitals_of(draft, event)
        worker = child.beat(worker, draft.now, timing, keep_deadline=vitals.leaving)
    if event.stopping and not vitals.leaving:
        # It may fall silent on its way out, for as long as an ordered stop may take; then it has to be gone.
        # The exit that follows is an exit like any other.
        vitals = replace(vitals, leaving=True, suspicion=None)
        worker = replace(worker, deadline=draft.now + timing.stop_grace_s, extended_s=0.0)
    if event.trigger:
        vitals = replace(vitals, triggered=True)
    if event.extend_s > 0:
        worker = child.extend(worker, event.extend_s, draft.now, timing)
    draft.change(worker=worker, vitals=vitals)
    if state.conditions:
        if vitals.suspicion is None:
            draft.clear_condition(ConditionType.NODE_STARVED, "BeatsInTime")
            if state.hold is None and not vitals.triggered:
                draft.clear_condition(ConditionType.KILLS_HELD, "NothingToHold")
        _note_driver(draft, event)
    elif event.stuck_probes:
        _note_driver(draft, event)
    if event.trigger:
        _end_involuntarily(draft, Reason.TRIGGERED, _TRIGGERED)


def _vitals_of(draft: Draft, event: HeartbeatReceived) -> Vitals:
    """What a beat tells of the worker's inside; a stall puts it under suspicion and asks the kernel."""
    before, now, config = draft.state.vitals, draft.now, draft.config
    lag_s = event.loop_lag_s or 0.0
    stalls = lag_s > config.stall_timeout_s or bool(event.overdue)
    expect_used_s = before.expect_used_s
    if stalls and event.expected_s > 0 and expect_used_s < config.expect_limit_s:
        expect_used_s += now - (draft.state.worker.last_beat_at or draft.state.worker.since)
        stalls = False
    suspicion = before.suspicion
    if suspicion is not None and (suspicion.kind is SuspicionKind.LOST or not stalls):
        suspicion = None
    if stalls and suspicion is None:
        since = now - lag_s
        suspicion = Suspicion(SuspicionKind.STALLED, since, now + config.examine_timeout_s, asked=True)
        draft.act(_examine(draft, since))
    return Vitals(
        loop_lag_s=lag_s,
        overdue=event.overdue,
        stalled_at=event.stalled_at,
        warned=lag_s > config.stall_warn_s or bool(event.overdue),
        expect_used_s=expect_used_s,
        suspicion=suspicion,
        triggered=before.triggered,
        leaving=before.leaving,
    )


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


def ready_overdue(draft: Draft) -> None:
    """The deadline of a worker that was ready passed: for its next beat, or for the exit that it announced."""
    if draft.state.vitals.leaving:
        _exit_overdue(draft)
    else:
        _fell_silent(draft)


def _exit_overdue(draft: Draft) -> None:
    """It said STOPPING=1 and is still there; beats from a thread of its own would go on for ever."""
    _end_overdue(draft, Reason.EXIT_OVERDUE, "it said STOPPING=1 and did not exit in time")


def _fell_silent(draft: Draft) -> None:
    """Ask the kernel before any verdict."""
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
    """The worker was not ready in time; an adopted one that lives has said so to nobody, and counts as ready."""
    worker, timing = draft.state.worker, draft.config.worker
    if worker.may_be_ready:
        heard_at = worker.last_beat_at
        is_alive = heard_at is not None and draft.now - heard_at < timing.heartbeat_timeout_s
        if is_alive or timing.mode is not HeartbeatMode.WATCHDOG:
            worker_life.became_ready(draft)
            return
    waited_s = draft.now - worker.since
    _end_overdue(draft, Reason.START_TIMEOUT, f"not ready within {waited_s:.1f} s")


def _end_overdue(draft: Draft, reason: Reason, detail: str) -> None:
    worker = draft.state.worker
    if draft.state.hold is not None:
        again = draft.now + draft.config.worker.heartbeat_interval_s
        draft.change(worker=replace(worker, deadline=again))
    _end_involuntarily(draft, reason, detail)


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
        _end_involuntarily(draft, Reason.TRIGGERED, _TRIGGERED)


def hold_began(draft: Draft) -> None:
    """A kill that nobody has signalled yet is called off."""
    if not recovery_ladder.call_off(draft):
        return
    worker, timing = draft.state.worker, draft.config.worker
    without_beats = worker.stage is Stage.READY and timing.mode is not HeartbeatMode.WATCHDOG
    if without_beats and not draft.state.vitals.leaving:
        draft.change(worker=replace(worker, deadline=None))
    else:
        draft.change(worker=replace(worker, deadline=draft.now + timing.heartbeat_timeout_s))


def grant_beats(draft: Draft) -> None:
    """The nanny or the node was away: every liveness deadline is at least two beats from now.

    A worker that stays silent is granted ``starvation_limit_s`` at most: a nanny that is always late still
    judges.
    """
    state, now = draft.state, draft.now
    link_timing = draft.config.link or draft.config.worker
    if _is_watched(state.link):
        link = _not_before(state.link, now + 2 * link_timing.heartbeat_interval_s)
        draft.change(link=link)
    if state.stopping is not None or not _is_watched(state.worker):
        return
    vitals, suspicion, beats_s = (
        state.vitals,
        state.vitals.suspicion,
        2 * draft.config.worker.heartbeat_interval_s,
    )
    if vitals.granted_s >= draft.config.starvation_limit_s:
        message = f"the nanny itself is late again and again; the worker was given {vitals.granted_s:.1f} s"
        draft.set_condition(ConditionType.NODE_STARVED, "NannyLate", message)
        return
    worker = _not_before(state.worker, now + beats_s)
    moved_s = (worker.deadline or 0.0) - (state.worker.deadline or 0.0)
    if suspicion is not None:
        deadline = max(suspicion.deadline, now + beats_s)
        moved_s = max(moved_s, deadline - suspicion.deadline)
        suspicion = replace(suspicion, asked=False, deadline=deadline)
    granted_s = vitals.granted_s + min(moved_s, beats_s)
    draft.change(worker=worker, vitals=replace(vitals, suspicion=suspicion, granted_s=granted_s))


def _is_watched(one: child.Child) -> bool:
    return one.stage in {Stage.STARTING, Stage.READY}


def _not_before(one: child.Child, deadline: float) -> child.Child:
    if one.deadline is None or one.deadline >= deadline:
        return one
    return replace(one, deadline=deadline)
