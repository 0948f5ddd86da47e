"""Why the node is in its phase, the evidence that decided it, the next automatic step and its time.

Pure: state, now and configuration in, words out. The same words go to ``nannyctl explain``, to the fallback
answer of /healthz and, through link, to the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanny.core.child import Stage
from nanny.core.policy import next_deadline
from nanny.core.state import NannyState, Phase, Rung, SuspicionKind, Then

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig


@dataclass(frozen=True, slots=True)
class Explanation:
    """Words for people; ``next_in_s`` is None when nothing is going to happen by itself."""

    phase: Phase
    because: tuple[str, ...]
    next_step: str
    next_in_s: float | None


def explain(state: NannyState, now: float, config: PolicyConfig) -> Explanation:
    """Tell the story of the present phase."""
    because = [_phase_reason(state, now), *_details(state, now)]
    next_step, at = _next_step(state, config)
    return Explanation(state.phase, tuple(because), next_step, None if at is None else max(at - now, 0.0))


def _phase_reason(state: NannyState, now: float) -> str:
    worker, name = state.worker, state.incarnation
    since_s = now - worker.since
    match state.phase:
        case Phase.DOWN if state.is_shutting_down:
            return "the nanny is ending; what is wanted of the worker stays as it is"
        case Phase.DOWN:
            intent = state.intent
            ago = "before this boot" if intent.since is None else f"{now - intent.since:.0f} s ago"
            return f"stopped by {intent.actor} {ago}: {intent.reason}"
        case Phase.STARTING:
            what = "is being born" if worker.stage is Stage.SPAWNING else "has not said READY=1 yet"
            return f"{name} {what}, for {since_s:.1f} s"
        case Phase.RUNNING:
            return f"{name} has been ready for {since_s:.0f} s and its loop makes progress"
        case Phase.DEGRADED:
            return f"{name} lives but is in trouble: {_trouble(state, now)}"
        case Phase.STOPPING:
            stopping = state.stopping
            assert stopping is not None
            return f"{name} is being ended ({stopping.reason}): {stopping.detail}"
        case Phase.BACKOFF:
            return f"{worker.failures} failure(s) in a row; {_last(state)}"
        case Phase.FAILED:
            return f"crash loop, {worker.failures} failures in a row; {_last(state)}"


def _last(state: NannyState) -> str:
    last = state.last_restart
    return "no worker has lived yet" if last is None else f"the last one: {last.reason}, {last.detail}"


def _trouble(state: NannyState, now: float) -> str:
    vitals = state.vitals
    parts = []
    suspicion = vitals.suspicion
    if suspicion is not None and suspicion.kind is SuspicionKind.LOST:
        parts.append(f"no heartbeat for {now - suspicion.since:.1f} s")
    if vitals.warned or (suspicion is not None and suspicion.kind is SuspicionKind.STALLED):
        parts.append(f"its loop lags by {vitals.loop_lag_s:.1f} s")
    if vitals.overdue:
        parts.append(f"overdue: {', '.join(vitals.overdue)}")
    if vitals.stalled_at:
        parts.append(f"in {vitals.stalled_at}")
    if suspicion is not None and suspicion.extended_s > 0:
        parts.append(f"given {suspicion.extended_s:.1f} s more because it could not have run")
    if vitals.triggered:
        parts.append("it asked to be restarted")
    if vitals.leaving:
        parts.append("it said STOPPING=1 and is still there")
    return ", ".join(parts)


def _details(state: NannyState, now: float) -> list[str]:
    details = [f"{one.type}: {one.message} (for {now - one.since:.0f} s)" for one in state.conditions]
    if state.hold is not None:
        hold = state.hold
        details.append(
            f"involuntary kills are held by {hold.actor} for another {hold.until - now:.0f} s: {hold.reason}"
        )
    if state.draining:
        details.append("draining: no new work is wanted here")
    last = state.last_restart
    if last is not None and state.phase in {Phase.STARTING, Phase.RUNNING, Phase.DEGRADED}:
        details.append(
            f"last restart {now - last.at:.0f} s ago, of {last.before}: {last.reason}, {last.detail}"
        )
    return details


def _next_step(state: NannyState, config: PolicyConfig) -> tuple[str, float | None]:
    worker, stopping, suspicion = state.worker, state.stopping, state.vitals.suspicion
    if stopping is not None:
        following = stopping.remaining[0] if stopping.remaining else None
        what = {
            None: "fence it and go on without it",
            Rung.EVIDENCE: "collect evidence",
            Rung.TERMINATE: "SIGTERM",
            Rung.ABORT: "SIGABRT",
            Rung.KILL: "SIGKILL",
        }[following]
        after = {
            Then.RESTART: "then the next worker",
            Then.DOWN: "then down",
            Then.EXIT: "then the nanny ends",
        }
        return f"{what} unless it ends before, {after[state.then]}", stopping.deadline
    if suspicion is not None:
        return ("judge by what the kernel says" if suspicion.asked else "look again"), suspicion.deadline
    match worker.stage:
        case Stage.BACKOFF:
            return "start the next worker", worker.deadline
        case Stage.SPAWNING | Stage.STARTING:
            return "end it unless it is ready before", worker.deadline
        case Stage.READY if state.vitals.leaving:
            return "end it unless it exits before", worker.deadline
        case Stage.READY if worker.deadline is not None:
            return "ask the kernel unless a heartbeat comes before", worker.deadline
        case Stage.READY if worker.failures:
            return "forget past failures if it stays healthy", worker.since + config.worker.stable_after_s
        case Stage.ABSENT if state.is_shutting_down:
            return "the nanny ends, link first", state.link.deadline
        case Stage.ABSENT:
            return "nothing until somebody orders start: nannyctl start", None
        case _:
            return "nothing; it sends no heartbeats", next_deadline(state, config)
