"""A world that means well: answers every action, lets workers start, ends what is asked to end, waits where nothing is due.

From every reachable state it has to lead to where the intent points, with no command left open: the liveness half of
rules 1 and 4, which no rule on single steps can show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanny.core import events as e
from nanny.core.child import Stage
from nanny.core.policy import next_deadline, step
from nanny.core.state import NannyState, Phase, Rung

if TYPE_CHECKING:
    from nanny.core.config import PolicyConfig

STEPS_LIMIT = 60


def settled(state: NannyState) -> bool:
    """Whether all is as it is wanted and nothing is owed."""
    if state.is_shutting_down:
        return not (state.worker.is_live or state.link.is_live)
    wanted = Phase.RUNNING if state.then == "restart" else Phase.DOWN
    return state.phase is wanted and not state.ledger.pending and not state.journal_degraded


def next_event(state: NannyState, now: float, config: PolicyConfig) -> tuple[e.Event, float]:
    """What a world without faults brings next."""
    current = state.incarnation
    if current is None:
        return e.NannyStarted(), now
    if state.journal_degraded:
        return e.JournalRecovered(f"{state.spare_epoch}+"), now
    if state.worker.stage is Stage.SPAWNING:
        return e.WorkerParked(current, 7, 7), now
    if state.stopping is not None and state.stopping.rung is not Rung.EVIDENCE:
        return e.WorkerExited(current, "SIGTERM"), now
    if state.stopping is not None:
        return e.EvidenceCollected(current, "bundle"), now
    if state.worker.stage is Stage.STARTING:
        return e.HeartbeatReceived(current, ready=True), now
    if state.vitals.leaving:
        return e.WorkerExited(current, "exit code 0"), now
    if state.phase is Phase.DEGRADED and not state.vitals.triggered:
        return e.HeartbeatReceived(current), now
    if state.link.stage is Stage.SPAWNING:
        return e.LinkSpawned(state.link_number, 8), now
    if state.link.is_live and (state.link_signal is not None or state.is_shutting_down):
        return e.LinkExited(state.link_number, "SIGTERM"), now
    deadline = next_deadline(state, config)
    return e.TimePassed(), now if deadline is None else max(deadline, now)


def way_to_rest(state: NannyState, now: float, config: PolicyConfig) -> list[NannyState] | None:
    """The states until all has settled; None when it never does."""
    way = [state]
    for _ in range(STEPS_LIMIT):
        if settled(state):
            return way
        event, now = next_event(state, now, config)
        state = step(state, event, now, config).state
        way.append(state)
    return None
