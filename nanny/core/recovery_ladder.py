"""The ladder down which a worker is ended: which rung is next, and when.

Each verdict has its rungs, each rung a deadline and an action; a rung ends when its deadline passes or when
what it waits for has come. Below the last rung is the fence. What follows the end is ``worker_life``'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nanny.core import worker_life
from nanny.core.actions import CollectEvidence, Signal, SignalWorker
from nanny.core.records import StopDecided
from nanny.core.state import Reason, Rung, Stopping, Then

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Draft

RUNGS: Final[dict[Reason, tuple[Rung, ...]]] = {
    # A stalled worker's SIGTERM handler lives in the blocked loop; SIGABRT has the kernel's default action.
    Reason.STALLED: (Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    Reason.TRIGGERED: (Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    Reason.START_TIMEOUT: (Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    Reason.EXIT_OVERDUE: (Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    # A silent worker may be stopped (state T), where SIGABRT only stays pending.
    Reason.LOST: (Rung.EVIDENCE, Rung.KILL),
    Reason.MEMORY_LIMIT: (Rung.EVIDENCE, Rung.TERMINATE, Rung.ABORT, Rung.KILL),
    # Evidence only of one that would not go: why it did not is what somebody will ask.
    Reason.RESTART_ORDERED: (Rung.TERMINATE, Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    Reason.STOP_ORDERED: (Rung.TERMINATE, Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
    Reason.SHUTDOWN: (Rung.TERMINATE, Rung.EVIDENCE, Rung.ABORT, Rung.KILL),
}
INVOLUNTARY: Final = frozenset(RUNGS) - worker_life.ORDERED


def rung_timeout_s(rung: Rung, config: PolicyConfig) -> float:
    """How long a rung may take before the next one, in seconds."""
    return {
        Rung.EVIDENCE: config.evidence_timeout_s,
        Rung.TERMINATE: config.worker.stop_grace_s,
        Rung.ABORT: config.abort_grace_s,
        Rung.KILL: config.worker.unkillable_timeout_s,
    }[rung]


def begin(draft: Draft, reason: Reason, detail: str) -> None:
    """Start down the ladder; the decision is on record before the first rung acts.

    A worker that was in trouble already gets a short grace: the handler of its SIGTERM lives in the loop that stands.
    """
    incarnation, timing = draft.state.incarnation, draft.config.worker
    assert incarnation is not None
    is_in_trouble = draft.state.vitals.troubled and not draft.state.vitals.leaving
    first, *remaining = RUNGS[reason]
    draft.change(
        stopping=Stopping(reason, detail, draft.now, first, tuple(remaining), draft.now),
        worker=replace(draft.state.worker, deadline=None),
        vitals=replace(draft.state.vitals, suspicion=None),
    )
    draft.record(StopDecided(incarnation, reason, detail, draft.state.then))
    _enter(draft, first)
    if first is Rung.TERMINATE and is_in_trouble:
        grace_s = min(timing.stop_grace_s, timing.heartbeat_timeout_s)
        draft.change(stopping=replace(_stopping(draft), deadline=draft.now + grace_s))


def _stopping(draft: Draft) -> Stopping:
    stopping = draft.state.stopping
    assert stopping is not None
    return stopping


def _enter(draft: Draft, rung: Rung) -> None:
    stopping, incarnation = _stopping(draft), draft.state.incarnation
    assert incarnation is not None
    deadline = draft.now + rung_timeout_s(rung, draft.config)
    draft.change(stopping=replace(stopping, rung=rung, deadline=deadline))
    match rung:
        case Rung.EVIDENCE:
            draft.act(CollectEvidence(incarnation, stopping.reason, post_mortem=False))
        case Rung.TERMINATE:
            draft.act(SignalWorker(incarnation, Signal.TERMINATE))
        case Rung.ABORT:
            draft.act(SignalWorker(incarnation, Signal.ABORT))
        case Rung.KILL:
            draft.act(SignalWorker(incarnation, Signal.KILL))


def advance(draft: Draft) -> None:
    """The rung is over without an end of the worker: the next one, or the fence."""
    stopping = _stopping(draft)
    if not stopping.remaining:
        worker_life.fence(draft)
        return
    following, *remaining = stopping.remaining
    draft.change(stopping=replace(stopping, remaining=tuple(remaining)))
    _enter(draft, following)


def call_off(draft: Draft) -> bool:
    """Stop ending a worker that nobody has signalled yet; False when it is too late or was ordered."""
    stopping = draft.state.stopping
    if stopping is None or stopping.rung is not Rung.EVIDENCE or stopping.reason not in INVOLUNTARY:
        return False
    if draft.state.then is not Then.RESTART:
        return False
    draft.change(stopping=None)
    return True
